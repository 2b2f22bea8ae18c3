//! What is removed once a frame is down: what was made for it, and nothing else.

use crate::failure::say;
use crate::lock::Lock;
use frame::root::Root;
use std::path::{Path, PathBuf};

/// Removes the frame's files in the run directory, the directory when nothing else is in it, and the lock,
/// last.
pub fn clean(root: &Root, lock: Lock) {
    retire_journal(root);
    for path in files(root) {
        remove(&path);
    }
    for socket in std::fs::read_dir(root.partitions()).into_iter().flatten().flatten() {
        remove(&socket.path());
    }
    let _ = std::fs::remove_dir(root.partitions());
    if let Err(error) = lock.remove() {
        say!("error: the lock {} cannot be removed: {error}", root.lock().display());
    }
    // Somebody may have begun to bring the frame up again; then it is not empty, and stays.
    let _ = std::fs::remove_dir(&root.run);
}

/// Puts the journal of a run of which nothing lives any more where the next manager finds it: with what that run
/// was about, and with the events that nobody has heard of. A manager that ended in order, with all of them
/// delivered, left none.
pub fn retire_journal(root: &Root) {
    let journal = root.manager_database();
    if !journal.exists() {
        return;
    }
    let ended = journal.with_extension("db.ended");
    for suffix in ["", "-wal", "-shm"] {
        let beside = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        // A side file that is not there is no loss; one of an older journal would be this one's undoing.
        remove(&beside(&ended));
        if let Err(error) = std::fs::rename(beside(&journal), beside(&ended))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            say!("error: {} cannot be kept for the next manager: {error}", beside(&journal).display());
        }
    }
}

/// The files of the run directory, with those that databases and replaced files have beside them.
fn files(root: &Root) -> Vec<PathBuf> {
    let exact = [
        root.manager_socket(),
        root.service_processor_socket(),
        root.manager_notify_socket(),
        root.service_processor_notify_socket(),
    ];
    let with_others = [root.manager_database(), root.surveillance_record(), root.applied_frame(), root.log()];
    let beside = |path: &Path, base: &PathBuf| {
        let (name, base) = (path.file_name().unwrap_or_default(), base.file_name().unwrap_or_default());
        name.as_encoded_bytes().starts_with(base.as_encoded_bytes())
    };
    let entries = std::fs::read_dir(&root.run).into_iter().flatten().flatten().map(|entry| entry.path());
    let kept = root.manager_database().with_extension("db.ended");
    let others = entries.filter(|path| with_others.iter().any(|base| beside(path, base)) && !beside(path, &kept));
    exact.into_iter().chain(others).collect()
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            say!("error: {} cannot be removed: {error}", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_frames_stays() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::under(directory.path());
        std::fs::create_dir_all(root.partitions()).unwrap();
        let lock = Lock::take(&root.lock()).unwrap().unwrap();
        for path in [root.manager_socket(), root.run.join("manager.db-wal"), root.partitions().join("a")] {
            std::fs::write(path, "").unwrap();
        }
        std::fs::write(root.manager_database(), "events").unwrap();
        let foreign = root.run.join("somebody's");
        std::fs::write(&foreign, "").unwrap();
        clean(&root, lock);
        // What somebody put there, and events that nobody has heard of.
        let ended = root.run.join("manager.db.ended");
        assert_eq!(std::fs::read(&ended).unwrap(), b"events");
        assert_eq!(std::fs::read_dir(&root.run).unwrap().count(), 3);
        for path in [foreign, ended, root.run.join("manager.db.ended-wal")] {
            std::fs::remove_file(path).unwrap();
        }
        clean(&root, Lock::take(&root.lock()).unwrap().unwrap());
        assert!(!root.run.exists());
    }
}
