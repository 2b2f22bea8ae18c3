//! SQLite databases of the daemons: opened safely, and set aside when they are damaged.

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much a database must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The death of its process (`synchronous=OFF`): what is only true while the host runs.
    Process,
    /// The death of the host (`synchronous=FULL`).
    Host,
}

/// A database that is open, and where a damaged predecessor was put.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub connection: Connection,
    /// The damaged file that stood in its place, under its new name.
    pub set_aside: Option<PathBuf>,
}

/// Opens the database at `path`, making it when it is not there, and brings its tables to the newest
/// version: `steps[n]` is the SQL that leads from version n to n + 1 (`PRAGMA user_version`).
///
/// A file that is not a sound database, or of a newer version than `steps` knows, is renamed, never
/// removed, and a new one begun.
///
/// # Errors
/// When not even a new database can be made: no permission, no room.
pub fn open(path: &Path, durability: Durability, steps: &[&str]) -> rusqlite::Result<Opened> {
    match attempt(path, durability, steps) {
        Ok(connection) => Ok(Opened { connection, set_aside: None }),
        Err(error) if is_damage(&error) => {
            let aside = set_aside(path).map_err(|_| error)?;
            Ok(Opened { connection: attempt(path, durability, steps)?, set_aside: Some(aside) })
        }
        Err(error) => Err(error),
    }
}

fn attempt(path: &Path, durability: Durability, steps: &[&str]) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    // The tables are small: a statement is planned once, not for each value that it is run with.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = match durability {
        Durability::Process => "OFF",
        Durability::Host => "FULL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(damage(&sound));
    }
    let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let missing = steps.get(version as usize..).ok_or_else(|| damage("it was written by a newer version"))?;
    for (next, step) in (version + 1..).zip(missing) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", next)?;
        transaction.commit()?;
    }
    Ok(connection)
}

fn damage(reason: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), Some(reason.to_owned()))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    // A table that is there already under version 0 is a file that something else wrote.
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
        || matches!(error, rusqlite::Error::SqliteFailure(_, Some(text)) if text.contains("already exists"))
}

fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let free = (1..10_000)
        .map(|number| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".damaged-{number}"));
            PathBuf::from(name)
        })
        .find(|aside| !aside.exists())
        .ok_or_else(|| std::io::Error::other("too many damaged files stand beside it"))?;
    std::fs::rename(path, &free)?;
    for suffix in ["-wal", "-shm"] {
        let mut side = path.as_os_str().to_owned();
        side.push(suffix);
        let mut moved = free.as_os_str().to_owned();
        moved.push(suffix);
        match std::fs::rename(&side, &moved) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: &[&str] = &["CREATE TABLE a (x)", "CREATE TABLE b (y)"];

    #[test]
    fn grows_step_by_step() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        drop(open(&path, Durability::Process, &STEPS[..1]).unwrap());
        let opened = open(&path, Durability::Host, STEPS).unwrap();
        assert_eq!(opened.set_aside, None);
        opened.connection.execute("INSERT INTO b VALUES (1)", []).unwrap();
    }

    #[test]
    fn damaged_and_foreign_files_are_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        std::fs::write(&path, b"this is no database at all, whatever it may be called").unwrap();
        let first = open(&path, Durability::Host, STEPS).unwrap().set_aside.unwrap();
        assert!(std::fs::read(first).unwrap().starts_with(b"this is no database"));
        let newer = [STEPS, &["CREATE TABLE c (z)"]].concat();
        drop(open(&path, Durability::Host, &newer).unwrap());
        assert!(open(&path, Durability::Host, STEPS).unwrap().set_aside.is_some());
    }

    #[test]
    fn a_place_without_permission_is_an_error() {
        assert!(open(Path::new("/proc/nowhere/d"), Durability::Host, STEPS).is_err());
    }
}
