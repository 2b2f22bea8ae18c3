//! What the manager must know again when it comes back: one database in the run directory.
//!
//! It is true for one boot of the host only. Steps are written before they are taken.

use frame::declare::Partition;
use frame::event::{Event, Severity};
use frame::lifecycle::Lifecycle;
use frame::name::Name;
use frame::plan::PartitionPlan;
use frame::step::{Step, holdings};
use os::database::{self, Durability};
use rusqlite::{Connection, OptionalExtension, Params, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const KEEP: &str = "INSERT INTO partition VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET body = excluded.body";
const STEP: &str = "INSERT INTO step (partition, body) VALUES (?1, ?2)";
const CLEAR: &str = "DELETE FROM step WHERE partition = ?1";

const STEPS: &[&str] = &["CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE partition (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    CREATE TABLE step (id INTEGER PRIMARY KEY, partition TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE INDEX step_partition ON step (partition, id);
    CREATE TABLE outbox (
        incarnation INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        informational INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (incarnation, sequence)
    ) STRICT;"];

/// Most events that wait for the service processor.
pub const LARGEST_OUTBOX: u64 = 10_000;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The database failed.
    #[error("the journal of the manager failed")]
    Database(#[from] rusqlite::Error),
    /// Something in it is not what it should be.
    #[error("the journal of the manager holds something that cannot be read")]
    Form(#[from] serde_json::Error),
}

impl JournalError {
    /// Whether it says that the journal cannot be used just now, rather than that it is of no use.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::Database(error) if passes(error))
    }
}

/// What is kept of one partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What it was declared as when it was activated.
    pub declared: Partition,
    /// Where its life is.
    pub lifecycle: Lifecycle,
    /// How often it was started.
    pub incarnation: u64,
    /// What it owns; none while it is not active.
    pub plan: Option<PartitionPlan>,
    /// When its process was made, milliseconds of the monotonic clock.
    pub started: Option<u64>,
}

/// The journal, open.
#[derive(Debug)]
pub struct Journal {
    database: Connection,
}

/// A journal, and what had to be put aside for it.
#[derive(Debug)]
pub struct Opened {
    /// The journal.
    pub journal: Journal,
    /// A sentence for each thing that was found and put aside.
    pub aside: Vec<String>,
    /// Whether it began anew in place of one that was of no use.
    pub lost: bool,
}

/// Whether an error says that the database cannot be used just now, rather than that it is of no use.
fn passes(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::SystemIoFailure
        )
    )
}

fn side_files(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}

/// Where whoever ends a frame with everything puts its journal, so that the next run knows.
fn ended(path: &Path) -> PathBuf {
    path.with_extension("db.ended")
}

/// Removes a journal and its side files; what cannot be removed stays.
pub fn remove(path: &Path) {
    for file in side_files(path) {
        // Nobody reads it any more; the run directory goes as a whole.
        let _ = std::fs::remove_file(file);
    }
}

/// Opens the journal at `path` for the frame `frame` in the boot `boot`. A journal of another boot or frame,
/// or one that is damaged, is put aside and a new one begun.
///
/// # Errors
/// When not even a new one can be made.
pub fn open(path: &Path, boot: &str, frame: &Name) -> Result<Opened, JournalError> {
    let mut aside = Vec::new();
    let mut journal = attempt(path, &mut aside)?;
    let mut lost = !aside.is_empty();
    if let Some(reason) = journal.unfit(boot, frame)? {
        let kept = path.with_extension("db.stale");
        drop(journal);
        for (from, to) in side_files(path).iter().zip(side_files(&kept)) {
            // A side file that is not there is no loss.
            let _ = std::fs::rename(from, to);
        }
        aside.push(format!("the journal {reason} and was put aside as {}", kept.display()));
        journal = attempt(path, &mut aside)?;
        lost = true;
    }
    // Nothing is written that stands there: on a full disk the journal can be used as it is.
    for (fact, value) in [("boot", boot), ("frame", frame.as_str())] {
        if journal.fact::<String>(fact)?.as_deref() != Some(value) {
            journal.set_fact(fact, &value)?;
        }
    }
    aside.extend(journal.inherit(path));
    Ok(Opened { journal, aside, lost })
}

fn attempt(path: &Path, aside: &mut Vec<String>) -> Result<Journal, JournalError> {
    let opened = database::open(path, Durability::Process, STEPS)?;
    if let Some(place) = opened.set_aside {
        aside.push(format!("the journal was damaged and was put aside as {}", place.display()));
    }
    Ok(Journal { database: opened.connection })
}

impl Journal {
    /// Why this journal is of no use to a manager of `frame` in the boot `boot`.
    ///
    /// # Errors
    /// When it cannot be read just now, which says nothing about what is in it: to put it aside then would end
    /// every partition that runs.
    fn unfit(&self, boot: &str, frame: &Name) -> Result<Option<String>, JournalError> {
        let read = || {
            for (fact, expected) in [("boot", boot), ("frame", frame.as_str())] {
                match self.fact::<String>(fact)? {
                    Some(found) if found != expected => return Ok(Some(format!("was of another {fact} ({found})"))),
                    _ => {}
                }
            }
            for kept in self.partitions()? {
                self.steps(&kept.declared.name)?;
            }
            self.oldest(1)?;
            self.epoch().map(|_| None)
        };
        match read() {
            // Another version of the manager may have written other things.
            Err(JournalError::Form(error)) => Ok(Some(format!("cannot be read ({error})"))),
            Err(JournalError::Database(error)) if !passes(&error) => Ok(Some(format!("cannot be read ({error})"))),
            fit => fit,
        }
    }

    /// One fact about the frame.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn fact<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, JournalError> {
        let sql = "SELECT value FROM fact WHERE name = ?1";
        let mut statement = self.database.prepare_cached(sql)?;
        let text: Option<String> = statement.query_row([name], |row| row.get(0)).optional()?;
        Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    /// Writes a fact.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn set_fact<T: Serialize>(&self, name: &str, value: &T) -> Result<(), JournalError> {
        let sql = "INSERT INTO fact VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        run(&self.database, sql, params![name, serde_json::to_string(value)?])
    }

    /// Begins an epoch that is higher than every earlier one: also than one of a journal that was lost, and
    /// unlike one of an earlier boot, since it is at least the time of day in milliseconds, `wall`.
    ///
    /// # Errors
    /// [`JournalError`]; then no epoch was begun.
    pub fn begin_epoch(&self, wall: u64) -> Result<u64, JournalError> {
        let epoch = self.next_epoch(wall)?;
        self.set_fact("epoch", &epoch)?;
        Ok(epoch)
    }

    /// The epoch that [`Journal::begin_epoch`] would begin.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn next_epoch(&self, wall: u64) -> Result<u64, JournalError> {
        Ok(self.epoch()?.unwrap_or(0).saturating_add(1).max(wall))
    }

    /// The highest epoch that was begun.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn epoch(&self) -> Result<Option<u64>, JournalError> {
        self.fact("epoch")
    }

    /// Every partition that was ever activated.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn partitions(&self) -> Result<Vec<Kept>, JournalError> {
        let mut statement = self.database.prepare("SELECT body FROM partition ORDER BY name")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.map(|text| Ok(serde_json::from_str(&text?)?)).collect()
    }

    /// Writes down where several partitions are, all or none.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep<'a>(&mut self, all: impl IntoIterator<Item = &'a Kept>) -> Result<(), JournalError> {
        let transaction = self.database.transaction()?;
        for kept in all {
            keep(&transaction, kept)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Writes down where a partition is, and puts events into the outbox: all or nothing. Gives how many events
    /// went for them, as [`Journal::put`] does.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn keep_with(&mut self, kept: &Kept, events: &[Event]) -> Result<u64, JournalError> {
        if events.is_empty() {
            // One statement is all or nothing by itself.
            return keep(&self.database, kept).map(|()| 0);
        }
        let transaction = self.database.transaction()?;
        keep(&transaction, kept)?;
        let mut dropped = 0;
        for event in events {
            dropped += put(&transaction, event)?;
        }
        transaction.commit()?;
        Ok(dropped)
    }

    /// Takes over what a run of the frame left that was ended with everything: the events that nobody has heard
    /// of. Gives a sentence for each thing that was found.
    fn inherit(&mut self, path: &Path) -> Vec<String> {
        let left = ended(path);
        if !left.exists() {
            return vec![];
        }
        match self.inherit_from(&left) {
            Ok(found) => {
                remove(&left);
                found
            }
            // On a full disk it stays for the next manager.
            Err(error) if error.passes() => vec![],
            Err(error) => {
                remove(&left);
                vec![format!(
                    "the journal {} of an earlier run cannot be read and was removed: {error:?}",
                    left.display()
                )]
            }
        }
    }

    fn inherit_from(&mut self, left: &Path) -> Result<Vec<String>, JournalError> {
        let other = Self { database: database::open(left, Durability::Process, STEPS)?.connection };
        let kept = other.partitions()?;
        let active: Vec<&str> =
            kept.iter().filter(|kept| kept.lifecycle.is_active()).map(|kept| kept.declared.name.as_str()).collect();
        let events = other.oldest(usize::try_from(LARGEST_OUTBOX).unwrap_or(usize::MAX))?;
        let transaction = self.database.transaction()?;
        for event in &events {
            put(&transaction, event)?;
        }
        transaction.commit()?;
        let mut found = Vec::new();
        if !active.is_empty() {
            found
                .push(format!("an earlier run of the frame was ended with everything while {} ran", active.join(", ")));
        }
        if !events.is_empty() {
            found.push(format!(
                "{} event(s) of an earlier run, which nobody had heard of, were taken over",
                events.len()
            ));
        }
        Ok(found)
    }

    /// Forgets a partition.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn forget(&self, partition: &Name) -> Result<(), JournalError> {
        run(&self.database, "DELETE FROM partition WHERE name = ?1", [partition.as_str()])?;
        self.clear_steps(partition)
    }

    /// Writes a step down that is about to be taken.
    ///
    /// # Errors
    /// [`JournalError`]; then the step must not be taken.
    pub fn step(&self, partition: &Name, step: &Step) -> Result<(), JournalError> {
        run(&self.database, STEP, params![partition.as_str(), serde_json::to_string(step)?])
    }

    /// The steps about a partition, oldest first.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn steps(&self, partition: &Name) -> Result<Vec<Step>, JournalError> {
        let mut statement = self.database.prepare_cached("SELECT body FROM step WHERE partition = ?1 ORDER BY id")?;
        let rows = statement.query_map([partition.as_str()], |row| row.get::<_, String>(0))?;
        rows.map(|text| Ok(serde_json::from_str(&text?)?)).collect()
    }

    /// The process of a partition is gone and its socket is about to be removed: what came before is of use only
    /// as far as it is still there. A guest that restarts without end must not make the journal grow.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn reaped(&mut self, partition: &Name) -> Result<(), JournalError> {
        let held = holdings(&self.steps(partition)?);
        let mut steps = Vec::new();
        if !held.groups.is_empty() {
            steps.push(Step::Confine { groups: held.groups });
        }
        steps.extend(held.socket.map(|socket| Step::Listen { socket }));
        steps.push(Step::Reaped);
        let transaction = self.database.transaction()?;
        run(&transaction, CLEAR, [partition.as_str()])?;
        for step in steps {
            run(&transaction, STEP, params![partition.as_str(), serde_json::to_string(&step)?])?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Nothing of a partition is left on the host: its steps are of no more use.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn clear_steps(&self, partition: &Name) -> Result<(), JournalError> {
        run(&self.database, CLEAR, [partition.as_str()])
    }

    /// Puts an event into the outbox. When that is full, the oldest informational event goes, or the oldest
    /// of all; gives how many went.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn put(&self, event: &Event) -> Result<u64, JournalError> {
        put(&self.database, event)
    }

    /// The oldest events in the outbox, at most `most`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn oldest(&self, most: usize) -> Result<Vec<Event>, JournalError> {
        let sql = "SELECT body FROM outbox ORDER BY incarnation, sequence LIMIT ?1";
        let mut statement = self.database.prepare_cached(sql)?;
        let rows = statement.query_map([most as i64], |row| row.get::<_, String>(0))?;
        rows.map(|text| Ok(serde_json::from_str(&text?)?)).collect()
    }

    /// Takes an event out of the outbox.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn delivered(&self, incarnation: u64, sequence: u64) -> Result<(), JournalError> {
        let sql = "DELETE FROM outbox WHERE incarnation = ?1 AND sequence = ?2";
        run(&self.database, sql, [as_signed(incarnation), as_signed(sequence)])
    }

    /// Events in the outbox.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn waiting(&self) -> Result<u64, JournalError> {
        waiting(&self.database)
    }
}

/// Runs a statement that is prepared once.
fn run(database: &Connection, sql: &str, parameters: impl Params) -> Result<(), JournalError> {
    database.prepare_cached(sql)?.execute(parameters)?;
    Ok(())
}

fn keep(database: &Connection, kept: &Kept) -> Result<(), JournalError> {
    run(database, KEEP, params![kept.declared.name.as_str(), serde_json::to_string(kept)?])
}

fn waiting(database: &Connection) -> Result<u64, JournalError> {
    let mut statement = database.prepare_cached("SELECT count(*) FROM outbox")?;
    let count: i64 = statement.query_row([], |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

fn put(database: &Connection, event: &Event) -> Result<u64, JournalError> {
    let body = serde_json::to_string(event)?;
    let informational = event.severity == Severity::Informational;
    let mut statement = database.prepare_cached("INSERT OR IGNORE INTO outbox VALUES (?1, ?2, ?3, ?4)")?;
    statement.execute(params![as_signed(event.incarnation), as_signed(event.sequence), informational, body])?;
    let mut dropped = 0;
    while waiting(database)? > LARGEST_OUTBOX {
        let sql = "DELETE FROM outbox WHERE rowid = (SELECT rowid FROM outbox
            ORDER BY informational DESC, incarnation, sequence LIMIT 1)";
        dropped += database.execute(sql, [])? as u64;
    }
    Ok(dropped)
}

/// SQLite's integers are signed; epochs and sequences never come near the limit.
fn as_signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::code::Code;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn opened(directory: &Path, boot: &str) -> Opened {
        open(&directory.join("manager.db"), boot, &name("rack7")).unwrap()
    }

    #[test]
    fn epochs_only_grow() {
        let directory = tempfile::tempdir().unwrap();
        let first = opened(directory.path(), "b").journal.begin_epoch(100).unwrap();
        assert_eq!(first, 100);
        let second = opened(directory.path(), "b").journal.begin_epoch(50).unwrap();
        assert_eq!(second, 101);
    }

    #[test]
    fn another_boot_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let first = opened(directory.path(), "one");
        assert!(first.aside.is_empty());
        first.journal.step(&name("a"), &Step::Release).unwrap();
        drop(first);
        let second = opened(directory.path(), "two");
        assert_eq!(second.aside.len(), 1);
        assert!(second.journal.steps(&name("a")).unwrap().is_empty());
        assert!(directory.path().join("manager.db.stale").exists());
    }

    #[test]
    fn a_journal_that_says_other_things_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let first = opened(directory.path(), "one").journal;
        first.database.execute("INSERT INTO partition VALUES ('a', '{\"other\": 1}')", []).unwrap();
        drop(first);
        let second = opened(directory.path(), "one");
        assert!(second.aside[0].contains("cannot be read"), "{:?}", second.aside);
        assert!(second.journal.partitions().unwrap().is_empty());
    }

    #[test]
    fn events_of_a_run_that_was_ended_are_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manager.db");
        let first = opened(directory.path(), "one").journal;
        let event =
            |sequence| Event { incarnation: 5, sequence, ..Event::new(Code::ProcessLost, vec![], String::new()) };
        first.put(&event(1)).unwrap();
        first.set_fact("started", &true).unwrap();
        drop(first);
        for (from, to) in side_files(&path).iter().zip(side_files(&ended(&path))) {
            let _ = std::fs::rename(from, to);
        }
        let second = opened(directory.path(), "one");
        assert!(second.aside[0].contains("1 event(s)"), "{:?}", second.aside);
        assert!(!second.lost);
        assert_eq!(second.journal.oldest(10).unwrap(), [event(1)]);
        assert_eq!(second.journal.fact::<bool>("started").unwrap(), None);
        assert!(!ended(&path).exists());
        std::fs::write(ended(&path), [7; 5000]).unwrap();
        drop(second);
        let third = opened(directory.path(), "one");
        assert!(!ended(&path).exists() && third.aside.len() < 2, "{:?}", third.aside);
    }

    #[test]
    fn state_and_events_are_written_together() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = opened(directory.path(), "b").journal;
        let text = "[frame]\nname = \"t\"\n[[partition]]\nname = \"a\"\nprocessors = { mode = \"dedicated\", desired = 1 }\n\
            memory = { desired = \"6MiB\" }\nboot = \"diagnostics\"\n";
        let declared = frame::file::read(text).frame.unwrap().partitions.remove(0);
        let lifecycle = Lifecycle::new(declared.name.clone(), declared.shutdown);
        let kept = Kept { declared, lifecycle, incarnation: 3, plan: None, started: None };
        let event = Event { incarnation: 5, sequence: 1, ..Event::new(Code::ProcessLost, vec![], String::new()) };
        assert_eq!(journal.keep_with(&kept, std::slice::from_ref(&event)).unwrap(), 0);
        assert_eq!(
            (journal.partitions().unwrap(), journal.oldest(9).unwrap()),
            (vec![kept.clone()], vec![event.clone()])
        );
        // When one cannot be written, neither is.
        journal.database.execute("DROP TABLE outbox", []).unwrap();
        assert!(journal.keep_with(&Kept { incarnation: 4, ..kept.clone() }, &[event]).is_err());
        assert_eq!(journal.partitions().unwrap(), [kept]);
    }

    #[test]
    fn a_damaged_journal_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("manager.db"), [7; 5000]).unwrap();
        let opened = opened(directory.path(), "b");
        assert!(opened.aside[0].contains("damaged"), "{:?}", opened.aside);
    }

    #[test]
    fn steps_come_back_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let journal = opened(directory.path(), "b").journal;
        let steps = [Step::Listen { socket: "/s".into() }, Step::Spawn { incarnation: 1 }, Step::Reaped];
        for step in &steps {
            journal.step(&name("a"), step).unwrap();
            journal.step(&name("b"), step).unwrap();
        }
        assert_eq!(journal.steps(&name("a")).unwrap(), steps);
        journal.clear_steps(&name("a")).unwrap();
        assert!(journal.steps(&name("a")).unwrap().is_empty());
        assert_eq!(journal.steps(&name("b")).unwrap().len(), 3);
    }

    #[test]
    fn a_journal_that_cannot_be_read_just_now_stays() {
        let failure = |code| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        for code in [rusqlite::ffi::SQLITE_FULL, rusqlite::ffi::SQLITE_BUSY, rusqlite::ffi::SQLITE_IOERR] {
            assert!(passes(&failure(code)));
        }
        assert!(!passes(&failure(rusqlite::ffi::SQLITE_CORRUPT)));
        let directory = tempfile::tempdir().unwrap();
        let journal = opened(directory.path(), "b").journal;
        let missing = journal.database.execute("SELECT * FROM something_else", []).unwrap_err();
        assert!(!passes(&missing));
    }

    #[test]
    fn a_guest_that_restarts_without_end_does_not_grow_the_journal() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = opened(directory.path(), "b").journal;
        let confine = Step::Confine { groups: vec!["/g/a".into()] };
        let listen = Step::Listen { socket: "/s".into() };
        for incarnation in 1..=20 {
            for step in [&confine, &listen, &Step::Spawn { incarnation }] {
                journal.step(&name("a"), step).unwrap();
            }
            journal.reaped(&name("a")).unwrap();
        }
        assert_eq!(journal.steps(&name("a")).unwrap(), [confine, listen, Step::Reaped]);
    }

    #[test]
    fn the_outbox_is_bounded_and_keeps_what_matters() {
        let directory = tempfile::tempdir().unwrap();
        let journal = opened(directory.path(), "b").journal;
        let put = |code, sequence| {
            let event = Event { incarnation: 5, sequence, ..Event::new(code, vec![name("a")], String::new()) };
            journal.put(&event).unwrap()
        };
        assert_eq!(put(Code::TripleFault, 1), 0);
        for sequence in 2..=LARGEST_OUTBOX {
            assert_eq!(put(Code::PartitionRunning, sequence), 0);
        }
        assert_eq!(put(Code::ProcessLost, LARGEST_OUTBOX + 1), 1);
        // An event that comes again is the same event.
        put(Code::ProcessLost, LARGEST_OUTBOX + 1);
        assert_eq!(journal.waiting().unwrap(), LARGEST_OUTBOX);
        let oldest = journal.oldest(2).unwrap();
        assert_eq!((oldest[0].sequence, oldest[1].sequence), (1, 3));
        journal.delivered(5, 1).unwrap();
        assert_eq!(journal.oldest(1).unwrap()[0].sequence, 3);
    }
}
