//! What a killed run leaves behind, of every kind: the next start finds it, deals with it and says so.

use crate::TWO;
use anyhow::{Context, Result, ensure};
use end_to_end::frame::Frame;
use end_to_end::{host, wait};
use rustix::process::Signal;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kills the manager and waits for the next one.
fn replace_manager(frame: &Frame) -> Result<()> {
    let manager = frame.manager()?;
    host::signal(manager, Signal::KILL)?;
    wait::until("another manager", || {
        Ok((frame.manager()? != manager && frame.lpar.run("ls")?.status == 0).then_some(()))
    })
}

/// Demands one event about something that was left, with all of `parts` in it, and the same line in the log.
fn said(frame: &Frame, parts: &[&str]) -> Result<()> {
    let mut texts = Vec::new();
    wait::until("an event that says what was found", || {
        let events = frame.lpar.events()?;
        let found = events.iter().filter(|event| event["code"] == "B7000001");
        texts = found.filter_map(|event| event["text"].as_str().map(str::to_owned)).collect();
        Ok(texts.iter().any(|text| parts.iter().all(|part| text.contains(part))).then_some(()))
    })
    .with_context(|| format!("{parts:?} in {texts:?}"))?;
    let log = std::fs::read_to_string(frame.directory().join("r/run/daemons.log"))?;
    let line = log.lines().any(|line| line.contains("B7000001") && parts.iter().all(|part| line.contains(part)));
    ensure!(line, "no line in the log says {parts:?}:\n{log}");
    Ok(())
}

fn pids(frame: &Frame) -> Result<[u32; 2]> {
    Ok([frame.partition("alpha")?, frame.partition("beta")?])
}

fn all_run(frame: &Frame) -> Result<()> {
    for name in ["alpha", "beta"] {
        let row = frame.lpar.row(name)?;
        ensure!(row["state"] == "Running", "{row}");
    }
    Ok(())
}

fn journal(frame: &Frame) -> PathBuf {
    frame.directory().join("r/run/manager.db")
}

pub fn sockets() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let ghost = frame.directory().join("r/run/p/ghost");
    drop(std::os::unix::net::UnixListener::bind(&ghost)?);
    replace_manager(&frame)?;
    said(&frame, &["socket", "p/ghost"])?;
    ensure!(!ghost.exists());
    all_run(&frame)?;
    frame.down()
}

pub fn cgroups() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let groups = host::cgroups_of(&format!("{}.", frame.name()));
    let own = groups.iter().find(|path| path.ends_with("alpha")).and_then(|path| path.parent());
    let ghost = own.context("partitions are not confined on this machine")?.join("ghost");
    std::fs::create_dir(&ghost)?;
    replace_manager(&frame)?;
    said(&frame, &["cgroup", "/ghost"])?;
    wait::until("the end of the group", || Ok((!ghost.exists()).then_some(())))?;
    all_run(&frame)?;
    frame.down()
}

pub fn processes() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let before = pids(&frame)?;
    let command = std::fs::read(format!("/proc/{}/cmdline", before[0]))?;
    let title = String::from_utf8_lossy(&command).replace('\0', "").replace("/alpha", "/ghost");
    let mut ghost = Command::new("sleep").arg0(&title).arg("1000000").spawn()?;
    wait::until("its title", || {
        Ok(frame.partition_processes()?.iter().any(|(name, _)| name.starts_with("ghost")).then_some(()))
    })?;
    replace_manager(&frame)?;
    let ended = wait::until("its end", || Ok(ghost.try_wait()?));
    let _ = ghost.kill();
    ensure!(!ended?.success());
    said(&frame, &[&format!("process {} was ended", ghost.id())])?;
    ensure!(pids(&frame)? == before, "the others run on");
    frame.down()
}

pub fn damaged() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let before = pids(&frame)?;
    let shown = frame.lpar.json("show alpha")?;
    // Under the eyes of the manager that has it open, as a fault of the memory would.
    for file in [journal(&frame), journal(&frame).with_extension("db-wal")] {
        let length = usize::try_from(std::fs::metadata(&file)?.len())?;
        std::fs::write(&file, vec![0x55; length])?;
    }
    replace_manager(&frame)?;
    said(&frame, &["damaged", "alpha, beta", "taken over"])?;
    all_run(&frame)?;
    ensure!(pids(&frame)? == before, "the same processes run, adopted");
    let again = frame.lpar.json("show alpha")?;
    for resource in ["processors", "memory"] {
        let assigned = |shown: &serde_json::Value| shown["resources"][resource]["assigned"].clone();
        ensure!(assigned(&shown) == assigned(&again), "{shown} and {again}");
    }
    ensure!(frame.lpar.row("alpha")?["incarnation"] == 1);
    // What was found is in the new journal, and what is known of it suffices.
    replace_manager(&frame)?;
    ensure!(pids(&frame)? == before);
    frame.lpar.ok("shutdown alpha --immediate")?;
    frame.lpar.ok("activate alpha")?;
    let row = frame.lpar.row("alpha")?;
    ensure!(row["state"] == "Running" && row["incarnation"] == 2, "{row}");
    frame.down()
}

pub fn of_another_boot() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let before = pids(&frame)?;
    let database = rusqlite::Connection::open(journal(&frame))?;
    database.busy_timeout(wait::DEADLINE)?;
    ensure!(database.execute("UPDATE fact SET value = '\"of-yore\"' WHERE name = 'boot'", [])? == 1);
    drop(database);
    replace_manager(&frame)?;
    said(&frame, &["another boot (of-yore)", "alpha, beta"])?;
    ensure!(pids(&frame)? == before, "what runs in this boot runs on");
    all_run(&frame)?;
    frame.down()
}

/// A small file system in place of the run directory.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m,mode=755", "small"]).arg(at).status()?;
        ensure!(status.success(), "a small file system cannot be mounted");
        Ok(Self(at.to_owned()))
    }

    fn fill(&self) -> Result<PathBuf> {
        use std::io::Write;
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path)?;
        while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
        Ok(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

pub fn full() -> Result<()> {
    let frame = Frame::new(TWO)?;
    let small = Small::mount(&frame.directory().join("r/run"))?;
    frame.lpar.run_all([Path::new("up"), &frame.file(), Path::new("--detach")])?.expect(0)?;
    let before = pids(&frame)?;
    let filler = small.fill()?;
    ensure!(std::fs::write(filler.with_extension("more"), [1]).is_err(), "there is still room");
    // What happens while nothing can be written down is said all the same.
    frame.lpar.ok("shutdown beta --immediate")?;
    frame.lpar.event("D2000002", "beta")?;
    replace_manager(&frame)?;
    let started = |count: usize| {
        wait::until("the event of a manager that has begun", || {
            let events = frame.lpar.events()?;
            Ok((events.iter().filter(|event| event["code"] == "C7000001").count() == count).then_some(()))
        })
    };
    started(2)?;
    ensure!(frame.partition("alpha")? == before[0], "it was adopted");
    ensure!(frame.lpar.row("alpha")?["state"] == "Running");
    std::fs::remove_file(filler)?;
    // With room everything is as ever.
    replace_manager(&frame)?;
    started(3)?;
    ensure!(frame.partition("alpha")? == before[0]);
    frame.lpar.ok("activate beta")?;
    all_run(&frame)?;
    frame.lpar.ok("down --immediate")?;
    drop(small);
    frame.nothing_left()
}

pub fn all() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let service_processor = frame.service_processor()?;
    let daemons = [host::parent_of(service_processor)?, service_processor, frame.manager()?];
    let killed: Vec<u32> = daemons.into_iter().chain(pids(&frame)?).collect();
    for &pid in &killed {
        host::signal(pid, Signal::KILL)?;
    }
    wait::until("the end of them all", || Ok((!killed.iter().any(|&pid| host::runs(pid))).then_some(())))?;
    let answer = frame.lpar.run_all(["up".as_ref(), frame.file().as_os_str(), "--detach".as_ref()])?.expect(0)?;
    ensure!(answer.stderr.contains("left something behind"), "it is not said: {}", answer.stderr);
    said(&frame, &["was ended with everything while alpha, beta ran", "socket", "p/alpha"])?;
    all_run(&frame)?;
    frame.down()
}
