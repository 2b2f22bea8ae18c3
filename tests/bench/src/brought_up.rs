//! A frame that this bench brings up by `lpar`, as a user does, and that goes with the bench.

use anyhow::{Context, Result, bail, ensure};
use frame::api::{FRAME, FrameStatus, PARTITIONS};
use frame::root::Root;
use os::http::Client;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before the run gives up.
const DEADLINE: Duration = Duration::from_secs(60);

/// A frame with a root of its own.
#[derive(Debug)]
pub struct BroughtUp {
    lpar: PathBuf,
    up: Child,
    client: Client,
    directory: tempfile::TempDir,
}

impl BroughtUp {
    /// Brings up the frame whose file is `text`, with the binaries in `binaries`.
    ///
    /// # Errors
    /// When it does not come up; with what `lpar up` said.
    pub fn new(binaries: &Path, text: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("bhb").tempdir()?;
        let file = directory.path().join("frame.toml");
        std::fs::write(&file, text)?;
        let said = directory.path().join("said");
        let lpar = binaries.join("lpar");
        ensure!(lpar.exists(), "{} is not built; `cargo build --release --workspace` builds it", lpar.display());
        let root = Root::under(&directory.path().join("r"));
        let mut up = Command::new(&lpar);
        up.arg("--root").arg(directory.path().join("r")).arg("up").arg(&file);
        up.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&said)?);
        // SAFETY: between fork and exec one system call is made, and nothing is allocated.
        unsafe {
            // A bench that is killed takes its frame with it: a supervisor that is told to end brings it down.
            up.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let up = up.spawn()?;
        let client = Client::new(&root.manager_socket(), DEADLINE);
        let mut this = Self { lpar, up, client, directory };
        let begin = Instant::now();
        while this.status().is_err() {
            let ended = this.up.try_wait()?;
            if ended.is_some() || begin.elapsed() > DEADLINE {
                bail!("the frame does not come up: {}", std::fs::read_to_string(&said).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(this)
    }

    fn status(&self) -> Result<FrameStatus> {
        Ok(self.client.get(FRAME)?)
    }

    /// Process number of the manager.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn manager(&self) -> Result<u32> {
        Ok(self.status()?.pid)
    }

    /// The command with this frame's root, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.lpar);
        command.arg("--root").arg(self.directory.path().join("r")).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs the command to its end and demands success.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn lpar(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.command(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "lpar {} failed: {said}", arguments.join(" "));
        Ok(output)
    }

    /// A session on the console of a partition, open when this returns.
    ///
    /// # Errors
    /// When there is a session already, or no such partition.
    pub fn console(&self, partition: &str) -> Result<UnixStream> {
        Ok(self.client.upgrade(&format!("{PARTITIONS}/{partition}/console"), "console")?)
    }

    /// Brings the frame down.
    ///
    /// # Errors
    /// When it does not come down.
    pub fn down(mut self) -> Result<()> {
        self.lpar(&["down", "--immediate"])?;
        self.up.wait().context("the supervisor cannot be waited for")?;
        Ok(())
    }
}

impl Drop for BroughtUp {
    fn drop(&mut self) {
        if !matches!(self.up.try_wait(), Ok(Some(_))) {
            // After a failure: in order, if that is still possible.
            let _ = self.command(&["down", "--immediate"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            let _ = self.up.wait();
        }
    }
}

/// A frame file: a pool of `cpus` CPUs and `count` partitions of the payload, named `b0` and so on, none of
/// which starts by itself.
#[must_use]
pub fn frame_file(name: &str, cpus: usize, count: usize, mib: u64, units: &str, cmdline: &str) -> String {
    let mut text = format!(
        "[frame]\nname = \"{name}\"\nshared_host = true\nmemory_block = \"2MiB\"\n\
         reserved = {{ cpus = 0, memory = \"64MiB\" }}\nminimum_units = 0.001\n\n\
         [[pool]]\nname = \"default\"\ncpus = {cpus}\n"
    );
    for number in 0..count {
        text.push_str(&format!(
            "\n[[partition]]\nname = \"b{number}\"\nauto_start = false\nmemory = {{ desired = \"{mib}MiB\" }}\n\
             processors = {{ mode = \"shared\", pool = \"default\", desired = 1, units = {units}, sharing = \"uncapped\", weight = 128 }}\n\
             boot = {{ payload = \"diagnostics\", cmdline = \"{cmdline}\" }}\n"
        ));
    }
    text
}

/// Processor time that a process has used so far, in all its threads.
///
/// # Errors
/// When there is no such process.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0u64;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that ends meanwhile had little to do.
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let first = text.split_ascii_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        nanoseconds = nanoseconds.saturating_add(first.unwrap_or(0));
    }
    Ok(Duration::from_nanos(nanoseconds))
}
