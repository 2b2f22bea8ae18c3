//! A partition needs nothing but its descriptors: no user, no file.

use super::Test;
use super::harness::{Partition, Process, Setup, binary};
use anyhow::{Context, Result, ensure};
use frame::record::Cause;
use frame::wire::{Report, Request};
use rustix::fs::{Gid, Uid};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The tests; they need root.
pub const TESTS: &[Test] = &[("it_runs_as_another_user_in_an_empty_root", empty_root)];

/// An identity that owns nothing.
const NOBODY: u32 = 65_534;

/// Copies a file in another process: a child that another test forks at that moment would keep the copy open
/// for writing, and then it could not be executed.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-L").arg(from).arg(to).status().context("cp")?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

/// Copies the binary and what the dynamic loader wants of the file system before the first instruction.
fn furnish(root: &Path) -> Result<()> {
    copy(binary(), &root.join("partition"))?;
    let listed = Command::new("ldd").arg(binary()).output().context("ldd")?;
    for word in String::from_utf8(listed.stdout)?.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(word.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().context("no directory")?)?;
        copy(Path::new(word), &to)?;
    }
    Ok(())
}

fn empty_root() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let root = directory.path().join("root");
    std::fs::create_dir(&root)?;
    furnish(&root)?;
    std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o555))?;
    let inside = CString::new(root.as_os_str().as_bytes())?;
    let process = Process::start_with(Path::new("/partition"), |command| {
        let enter = move || {
            rustix::process::chroot(&*inside)?;
            rustix::process::chdir(c"/")?;
            // The child has one thread; the groups first, while they may still be changed.
            rustix::thread::set_thread_groups(&[])?;
            rustix::thread::set_thread_gid(Gid::from_raw(NOBODY))?;
            Ok(rustix::thread::set_thread_uid(Uid::from_raw(NOBODY))?)
        };
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe { command.pre_exec(enter) };
    })?;
    // Once it answers, its loader has done its work, and the root is emptied.
    let early = process.hello(1)?;
    ensure!(matches!(early.report()?.0, Report::Welcome(_)), "no welcome");
    for entry in std::fs::read_dir(&root)? {
        let path = entry?.path();
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id()))?;
    ensure!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    ensure!(status.contains("CapEff:\t0000000000000000"), "{status}");
    let mut partition = Partition::launch_in(process, &Setup::payload("name=nobody").processors(2))?;
    partition.start()?;
    partition.until("nobody: ready, 2 of 2 processors up")?;
    partition.manager.send(Request::PowerButton)?;
    ensure!(partition.manager.last()?.cause == Cause::PowerOff, "no power off");
    ensure!(partition.acknowledge()? == Some(0), "not orderly");
    Ok(())
}
