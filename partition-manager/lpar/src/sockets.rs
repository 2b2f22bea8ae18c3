//! Sockets that somebody holds, found by where they are bound (`proc(5)`, `/proc/net/unix`).

use frame::root::Root;
use std::collections::BTreeSet;
use std::path::Path;

/// The sockets bound below `directory` that a process holds, as `/proc/pid/fd` names them; not those of programs that
/// guests call, which are nobody's to end here.
#[must_use]
pub fn held_below(directory: &Path) -> BTreeSet<String> {
    let table = std::fs::read("/proc/net/unix").unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    let mut held = below(&table, directory);
    // The manager binds its own by the directory's real path.
    if let Ok(real) = directory.canonicalize()
        && real != directory
    {
        held.extend(below(&table, &real));
    }
    held
}

fn below(table: &str, directory: &Path) -> BTreeSet<String> {
    let entry = |line: &str| {
        // The path is the rest of the line and may hold blanks.
        let mut rest = line;
        let mut inode = "";
        for _ in 0..7 {
            let trimmed = rest.trim_start();
            let end = trimmed.find(' ').unwrap_or(trimmed.len());
            (inode, rest) = trimmed.split_at(end);
        }
        let path = rest.strip_prefix(' ')?;
        let is_ours = Path::new(path).starts_with(directory) && !Root::is_vsock_port(Path::new(path));
        is_ours.then(|| format!("socket:[{inode}]"))
    };
    table.lines().skip(1).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_by_their_place() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000: 00000002 00000000 00010000 0001 01    11 /r a/run/manager.sock\n\
            0000: 00000002 00000000 00010000 0005 01 12 /r a/run/p/alpha\n\
            0000: 00000002 00000000 00010000 0001 01 13 /r a/runner/x\n\
            0000: 00000002 00000000 00010000 0001 01 15 /r a/run/p/alpha.vsock_7\n\
            0000: 00000003 00000000 00000000 0001 03 14\n";
        let found = below(table, Path::new("/r a/run"));
        assert_eq!(found, BTreeSet::from(["socket:[11]".into(), "socket:[12]".into()]));
    }

    #[test]
    fn they_are_found_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap().join("real");
        let link = directory.path().join("link");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(real.join("s")).unwrap();
        assert_eq!(held_below(&link).len(), 1);
        assert_eq!(held_below(&link), held_below(&real));
    }
}
