//! Two frames on one host, and the CPUs that both want.

use crate::TWO;
use anyhow::{Context, Result, ensure};
use end_to_end::frame::Frame;
use end_to_end::{host, wait};
use rustix::process::Signal;
use std::process::{Child, Command, Stdio};

/// A place where no other frame of this machine has claimed anything: locks of its own, in a mount namespace.
pub struct Place(Child);

impl Place {
    pub fn new() -> Result<Self> {
        let script = "mount -t tmpfs -o mode=1777 locks /run/lock && echo made && exec sleep 1000000";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare(1)")?;
        let mut line = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().context("no output")?, &mut line)
            .context("no mount namespace could be made")?;
        Ok(Self(child))
    }

    fn claims(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/root/run/lock", self.0.id()))?.count())
    }

    fn frame(&self, bound: &str, shared: bool) -> Result<Frame> {
        self.frame_of(&TWO.replacen("[frame]", &format!("[frame]\n{bound}\nshared_host = {shared}"), 1))
    }

    /// A frame of this file that is not up.
    pub fn frame_of(&self, text: &str) -> Result<Frame> {
        let mut frame = Frame::new(text)?;
        frame.lpar = frame.lpar.in_place_of(self.0.id());
        Ok(frame)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn up(frame: &Frame, detach: bool) -> Result<end_to_end::lpar::Answer> {
    let file = frame.file();
    let mut arguments = vec!["up".as_ref(), file.as_os_str()];
    if detach {
        arguments.push("--detach".as_ref());
    }
    frame.lpar.run_all(arguments)
}

fn refused(frame: &Frame, by: &Frame) -> Result<()> {
    for detach in [true, false] {
        let answer = up(frame, detach)?.expect(1)?;
        for part in [frame.name(), by.name(), "CPU", "`cpus`", "shared_host = true", "bring"] {
            ensure!(answer.stderr.contains(part), "no {part:?} in: {}", answer.stderr);
        }
    }
    ensure!(!frame.directory().join("r/run").exists(), "something was made");
    frame.nothing_left()
}

pub fn one_frame_each() -> Result<()> {
    let place = Place::new()?;
    let (first, second, third) = (place.frame("", false)?, place.frame("cpus = \"0\"", false)?, place.frame("", true)?);
    up(&first, true)?.expect(0)?;
    refused(&second, &first)?;
    refused(&third, &first)?;
    first.down()?;
    ensure!(place.claims()? == 0, "a claim is left");
    up(&second, true)?.expect(0)?;
    second.down()
}

pub fn shared() -> Result<()> {
    let place = Place::new()?;
    let (first, second, third) = (place.frame("", true)?, place.frame("", true)?, place.frame("cpus = \"0\"", false)?);
    up(&first, true)?.expect(0)?;
    up(&second, true)?.expect(0)?;
    refused(&third, &first).or_else(|_| refused(&third, &second))?;
    first.down()?;
    refused(&third, &second)?;
    second.down()
}

pub fn outlives_the_daemons() -> Result<()> {
    let place = Place::new()?;
    let (first, second) = (place.frame("", false)?, place.frame("", false)?);
    up(&first, true)?.expect(0)?;
    let partitions = [first.partition("alpha")?, first.partition("beta")?];
    let service_processor = first.service_processor()?;
    let supervisor = host::parent_of(service_processor)?;
    for pid in [supervisor, service_processor, first.manager()?] {
        host::signal(pid, Signal::KILL)?;
        wait::until("its end", || Ok((!host::runs(pid)).then_some(())))?;
    }
    // Only the partitions are left of it, and they use the CPUs.
    ensure!(partitions.iter().all(|&pid| host::runs(pid)));
    refused(&second, &first)?;
    // The frame itself is not in its own way.
    up(&first, true)?.expect(0)?;
    ensure!([first.partition("alpha")?, first.partition("beta")?] == partitions, "the partitions were adopted");
    refused(&second, &first)?;
    // Whatever ends it: the claim ends with the last process.
    let service_processor = first.service_processor()?;
    let daemons = [host::parent_of(service_processor)?, service_processor, first.manager()?];
    for pid in daemons.into_iter().chain(partitions) {
        host::signal(pid, Signal::KILL)?;
    }
    wait::until("the end of all", || {
        Ok((!daemons.iter().chain(&partitions).any(|&pid| host::runs(pid))).then_some(()))
    })?;
    up(&second, true)?.expect(0)?;
    second.down()?;
    first.down()?;
    ensure!(place.claims()? == 0, "a claim is left");
    Ok(())
}
