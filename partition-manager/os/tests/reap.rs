//! Waiting for every child, in a process of its own: it would take the children of other tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use os::keep::Keeper;
use os::process::{Handle, Identity};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn children_of_other_process_groups_are_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut keeper = Keeper::new(&directory.path().join("n"), Instant::now()).unwrap();
    #[expect(clippy::zombie_processes, reason = "the keeper waits for it")]
    let child = Command::new("true").process_group(0).spawn().unwrap();
    let handle = Handle::open(child.id()).unwrap().unwrap();
    assert!(handle.wait(Duration::from_secs(30)).unwrap());
    assert!(Identity::of(child.id()).is_ok());
    keeper.reap_all();
    assert!(Identity::of(child.id()).is_err(), "it is still there to be waited for");
}
