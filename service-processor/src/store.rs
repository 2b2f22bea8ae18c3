//! The event log's tables: what is kept, and in what order it is given out.

use frame::event::{Event, LoggedEvent};
use os::database::{Durability, open};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most events in one answer.
pub const LARGEST_ANSWER: usize = 1000;
/// Most bytes of records in one answer, unless one record alone has more: what clients take is bounded, and what
/// a guest leaves in the log (registers, for each of its processors) can be large.
pub const LARGEST_READ: u64 = 16 << 20;
/// Most frame files that are remembered, the one in force last.
const MOST_APPLIED: u64 = 16;
/// Most events that are kept; the oldest go first.
pub const MOST_EVENTS: u64 = 100_000;

const STEPS: &[&str] = &[
    "CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        source TEXT NOT NULL,
        incarnation INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        time INTEGER NOT NULL,
        code TEXT NOT NULL,
        severity TEXT NOT NULL,
        record TEXT NOT NULL,
        UNIQUE (source, incarnation, sequence)
    ) STRICT;
    CREATE TABLE applied (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time INTEGER NOT NULL,
        path BLOB NOT NULL,
        text TEXT NOT NULL
    ) STRICT;
    CREATE TABLE incarnations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time INTEGER NOT NULL
    ) STRICT;",
    "ALTER TABLE applied ADD COLUMN included TEXT NOT NULL DEFAULT '{}';",
];

/// The frame file in force, as it was when it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedText {
    /// Absolute path of the file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// The files that it included, by the path as the frame file's directory sees it, with their texts.
    pub included: BTreeMap<PathBuf, String>,
}

/// The event log's database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    /// The damaged database that stood in its place, under its new name.
    pub set_aside: Option<PathBuf>,
}

impl Store {
    /// Opens the database at `path`, or makes it.
    ///
    /// # Errors
    /// When it can neither be read nor made.
    pub fn open(path: &Path) -> rusqlite::Result<Self> {
        let opened = open(path, Durability::Host, STEPS)?;
        Ok(Self { connection: opened.connection, set_aside: opened.set_aside })
    }

    /// Counts one more incarnation of the service processor and gives its number.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn incarnate(&mut self, time: u64) -> rusqlite::Result<u64> {
        self.connection.execute("INSERT INTO incarnations (time) VALUES (?1)", [signed(time)])?;
        Ok(unsigned(self.connection.last_insert_rowid()))
    }

    /// Puts events into the log in their order, all or none; those that it has already stay as they are.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn insert(&mut self, events: &[Event]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut statement = transaction.prepare_cached(
                "INSERT OR IGNORE INTO events (source, incarnation, sequence, time, code, severity, record)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for event in events {
                let record = text(event)?;
                let severity = serde_json::to_value(event.severity).ok();
                statement.execute(params![
                    event.source.as_str(),
                    signed(event.incarnation),
                    signed(event.sequence),
                    signed(event.time),
                    event.code.reference(),
                    severity.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default(),
                    record,
                ])?;
            }
            let last = transaction.last_insert_rowid();
            transaction.execute("DELETE FROM events WHERE id <= ?1", [last.saturating_sub(signed(MOST_EVENTS))])?;
        }
        transaction.commit()
    }

    /// Events after number `after`, oldest first, at most `limit` and [`LARGEST_ANSWER`], and no more than have
    /// [`LARGEST_READ`] bytes; at least one, if there is one.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn after(&self, after: u64, limit: usize) -> rusqlite::Result<Vec<LoggedEvent>> {
        let limit = limit.min(LARGEST_ANSWER);
        let mut statement =
            self.connection.prepare_cached("SELECT id, record FROM events WHERE id > ?1 ORDER BY id LIMIT ?2")?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows =
            statement.query_map([signed(after), limit], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
        let mut events = Vec::new();
        let mut bytes = 0u64;
        for row in rows {
            let (id, record) = row?;
            bytes = bytes.saturating_add(record.len() as u64);
            if bytes > LARGEST_READ && !events.is_empty() {
                break;
            }
            let event = serde_json::from_str(&record).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error))
            })?;
            events.push(LoggedEvent { id: unsigned(id), event });
        }
        Ok(events)
    }

    /// The newest events, oldest first, bounded as [`Store::after`].
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn newest(&self, limit: usize) -> rusqlite::Result<Vec<LoggedEvent>> {
        let most = i64::try_from(limit.min(LARGEST_ANSWER)).unwrap_or(i64::MAX);
        let sql = "SELECT id, length(CAST(record AS BLOB)) FROM events ORDER BY id DESC LIMIT ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let (mut first, mut bytes) = (None, 0u64);
        for row in statement.query_map([most], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))? {
            let (id, length) = row?;
            bytes = bytes.saturating_add(unsigned(length));
            if bytes > LARGEST_READ && first.is_some() {
                break;
            }
            first = Some(id);
        }
        first.map_or(Ok(Vec::new()), |first| self.after(unsigned(first).saturating_sub(1), limit))
    }

    /// How many events there are, and the number of the last one (zero when there is none).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn extent(&self) -> rusqlite::Result<(u64, u64)> {
        self.connection.query_row("SELECT count(*), coalesce(max(id), 0) FROM events", [], |row| {
            Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)))
        })
    }

    /// Notes the frame file that is in force from now on. The same one twice is one entry.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn apply(&mut self, applied: &AppliedText, time: u64) -> rusqlite::Result<()> {
        if self.applied()?.as_ref() == Some(applied) {
            return Ok(());
        }
        use std::os::unix::ffi::OsStrExt;
        let included = text(&applied.included)?;
        self.connection.execute(
            "INSERT INTO applied (time, path, text, included) VALUES (?1, ?2, ?3, ?4)",
            params![signed(time), applied.path.as_os_str().as_bytes(), applied.text, included],
        )?;
        let last = self.connection.last_insert_rowid();
        self.connection.execute("DELETE FROM applied WHERE id <= ?1", [last.saturating_sub(signed(MOST_APPLIED))])?;
        Ok(())
    }

    /// The frame file in force; none when no frame was ever applied.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn applied(&self) -> rusqlite::Result<Option<AppliedText>> {
        use std::os::unix::ffi::OsStringExt;
        let sql = "SELECT path, text, included FROM applied ORDER BY id DESC LIMIT 1";
        let read = |row: &rusqlite::Row<'_>| {
            let path = PathBuf::from(std::ffi::OsString::from_vec(row.get(0)?));
            let included = serde_json::from_str(&row.get::<_, String>(2)?).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error))
            })?;
            Ok(AppliedText { path, text: row.get(1)?, included })
        };
        self.connection.query_row(sql, [], read).optional()
    }

    /// Limits the database to `pages` pages (`PRAGMA max_page_count`): how a full disk looks to it.
    #[cfg(test)]
    pub fn limit(&self, pages: u32) {
        self.connection.pragma_update(None, "max_page_count", pages).unwrap();
    }

    /// How many pages it has.
    #[cfg(test)]
    pub fn pages(&self) -> u32 {
        self.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap()
    }
}

fn text(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// SQLite counts in signed numbers; those beyond them are cut to the largest, which no clock reaches.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::code::Code;
    use frame::event::Source;
    use proptest::prelude::*;

    fn event(incarnation: u64, sequence: u64) -> Event {
        let mut event = Event::new(Code::ManagerStarted, Vec::new(), format!("{incarnation}.{sequence}"));
        event.source = Source::PartitionManager;
        event.incarnation = incarnation;
        event.sequence = sequence;
        event
    }

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("events.db")).unwrap();
        (directory, store)
    }

    #[test]
    fn what_arrives_twice_is_one_event() {
        let (directory, mut store) = store();
        store.insert(&[event(1, 1), event(1, 2)]).unwrap();
        store.insert(&[event(1, 1), event(1, 2), event(1, 3)]).unwrap();
        let events = store.after(0, 100).unwrap();
        assert_eq!(events.iter().map(|logged| logged.event.sequence).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert_eq!(store.after(events[1].id, 100).unwrap(), events[2..]);
        assert_eq!(store.after(0, 1).unwrap(), events[..1]);
        assert_eq!(store.newest(2).unwrap(), events[1..]);
        assert_eq!(store.newest(9).unwrap(), events);
        assert_eq!(store.newest(0).unwrap(), []);
        assert_eq!(store.extent().unwrap(), (3, events[2].id));
        drop(store);
        let store = Store::open(&directory.path().join("events.db")).unwrap();
        assert_eq!(store.after(0, usize::MAX).unwrap(), events);
    }

    #[test]
    fn a_full_disk_refuses_and_loses_nothing() {
        let (_directory, mut store) = store();
        store.insert(&[event(1, 1)]).unwrap();
        store.limit(store.pages());
        let many: Vec<Event> = (2..2000).map(|sequence| event(1, sequence)).collect();
        assert!(store.insert(&many).is_err());
        assert_eq!(store.after(0, 10).unwrap().len(), 1, "half a delivery was kept");
        store.limit(1 << 20);
        store.insert(&many).unwrap();
        assert_eq!(store.extent().unwrap().0, 1999);
    }

    #[test]
    fn the_applied_file_and_incarnations_survive() {
        let (directory, mut store) = store();
        assert_eq!(store.applied().unwrap(), None);
        let first = AppliedText { path: "/a/one.toml".into(), text: "x".into(), included: BTreeMap::new() };
        let second = AppliedText {
            path: "/a/two.toml".into(),
            text: "y".into(),
            included: BTreeMap::from([("sub/t.toml".into(), "z".into())]),
        };
        for applied in [&first, &second, &second] {
            store.apply(applied, 1).unwrap();
        }
        assert_eq!(store.incarnate(1).unwrap(), 1);
        drop(store);
        let mut store = Store::open(&directory.path().join("events.db")).unwrap();
        assert_eq!(store.applied().unwrap(), Some(second));
        assert_eq!(store.incarnate(2).unwrap(), 2);
    }

    #[test]
    fn old_frame_files_do_not_pile_up() {
        let (_directory, mut store) = store();
        let applied = |n: u64| AppliedText { path: "/f".into(), text: n.to_string(), included: BTreeMap::new() };
        for n in 0..3 * MOST_APPLIED {
            store.apply(&applied(n), n).unwrap();
        }
        let kept: i64 = store.connection.query_row("SELECT count(*) FROM applied", [], |row| row.get(0)).unwrap();
        assert_eq!((unsigned(kept), store.applied().unwrap()), (MOST_APPLIED, Some(applied(3 * MOST_APPLIED - 1))));
    }

    #[test]
    fn an_answer_is_bounded_in_bytes_and_the_log_is_read_to_its_end() {
        let (_directory, mut store) = store();
        let large = |sequence| event(1, sequence).with_data(serde_json::json!({ "x": "y".repeat(1 << 20) }));
        for sequence in 1..=40 {
            store.insert(&[large(sequence)]).unwrap();
        }
        let newest = store.newest(LARGEST_ANSWER).unwrap();
        assert_eq!((newest.len(), newest.last().map(|last| last.event.sequence)), (15, Some(40)));
        let mut read = Vec::new();
        loop {
            let page = store.after(read.last().copied().unwrap_or(0), LARGEST_ANSWER).unwrap();
            if page.is_empty() {
                break;
            }
            assert!(page.len() < 20);
            read.extend(page.iter().map(|logged| logged.id));
        }
        assert_eq!(read.len(), 40);
        // One that is too large by itself holds nothing up.
        store.insert(&[event(1, 41).with_data(serde_json::json!({ "x": "y".repeat(17 << 20) }))]).unwrap();
        assert_eq!((store.newest(5).unwrap().len(), store.after(40, 5).unwrap().len()), (1, 1));
    }

    #[test]
    fn a_damaged_log_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        std::fs::write(&path, "no database").unwrap();
        let mut store = Store::open(&path).unwrap();
        assert_eq!(std::fs::read(store.set_aside.clone().unwrap()).unwrap(), b"no database");
        store.insert(&[event(1, 1)]).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_delivery_order_gives_each_event_once(deliveries in proptest::collection::vec((1u64..4, 1u64..6), 1..40)) {
            let (_directory, mut store) = store();
            let mut known = Vec::new();
            for (incarnation, sequence) in deliveries {
                store.insert(&[event(incarnation, sequence)]).unwrap();
                if !known.contains(&(incarnation, sequence)) {
                    known.push((incarnation, sequence));
                }
            }
            let found: Vec<_> = store.after(0, 1000).unwrap().iter()
                .map(|logged| (logged.event.incarnation, logged.event.sequence)).collect();
            prop_assert_eq!(found, known);
        }
    }
}
