//! The command, run as a user runs it.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Directory of the four binaries: `BULKHEAD_BIN`, or that of the profile this test was built with.
///
/// # Errors
/// When they are not built.
pub fn binaries() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("BULKHEAD_BIN") {
        return Ok(PathBuf::from(named));
    }
    let own = std::env::current_exe()?;
    let profile = own.ancestors().nth(2).context("the test runs from outside a target directory")?;
    let release = profile.with_file_name("release");
    for directory in [profile, release.as_path()] {
        if directory.join("lpar").exists() && directory.join("partition").exists() {
            return Ok(directory.to_owned());
        }
    }
    bail!("the binaries are not built; run `cargo build --release` first, or `tests/run`")
}

/// What a finished command said.
#[derive(Debug)]
pub struct Answer {
    /// Exit status; -1 when a signal ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    fn of(output: &Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Demands an exit status.
    ///
    /// # Errors
    /// When it is another one; with all that the command said.
    pub fn expect(self, status: i32) -> Result<Self> {
        ensure!(
            self.status == status,
            "exit status {} instead of {status}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// Reads standard output as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {}", self.stdout))
    }
}

/// `lpar` with a root of its own.
#[derive(Clone, Debug)]
pub struct Lpar {
    root: PathBuf,
    /// The process whose mounts it sees; its own when absent.
    place: Option<u32>,
    /// Where the binaries are, if not where they usually are.
    binaries: Option<PathBuf>,
}

impl Lpar {
    /// `lpar --root ROOT`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), place: None, binaries: None }
    }

    /// The same, with the binaries of another directory.
    #[must_use]
    pub fn of(&self, binaries: &Path) -> Self {
        Self { binaries: Some(binaries.to_owned()), ..self.clone() }
    }

    /// The same, in the mount namespace of process `pid`.
    #[must_use]
    pub fn in_place_of(&self, pid: u32) -> Self {
        Self { place: Some(pid), ..self.clone() }
    }

    /// The command, not yet started, with the root in its environment and nothing on standard input.
    ///
    /// # Errors
    /// When the binaries are not built.
    pub fn command<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, arguments: I) -> Result<Command> {
        let lpar = match &self.binaries {
            Some(other) => other.join("lpar"),
            None => binaries()?.join("lpar"),
        };
        let mut command = match self.place {
            Some(pid) => {
                let mut command = Command::new("nsenter");
                command.args(["--mount", "--target", &pid.to_string(), "--"]).arg(lpar);
                command
            }
            None => Command::new(lpar),
        };
        command.args(arguments).env("BULKHEAD_ROOT", &self.root).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs `lpar` with arguments separated by blanks, to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, arguments: &str) -> Result<Answer> {
        self.run_all(arguments.split_whitespace())
    }

    /// Runs `lpar` with these arguments, to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run_all<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, arguments: I) -> Result<Answer> {
        Ok(Answer::of(&self.command(arguments)?.output()?))
    }

    /// Runs `lpar` and demands success.
    ///
    /// # Errors
    /// When its exit status is not 0.
    pub fn ok(&self, arguments: &str) -> Result<Answer> {
        self.run(arguments)?.expect(0).with_context(|| format!("lpar {arguments}"))
    }

    /// Runs `lpar ... --json` and reads the answer.
    ///
    /// # Errors
    /// When it fails or says no JSON.
    pub fn json(&self, arguments: &str) -> Result<Value> {
        self.ok(&format!("{arguments} --json"))?.json()
    }

    /// The row of one partition in `lpar ls --json`.
    ///
    /// # Errors
    /// When there is none.
    pub fn row(&self, name: &str) -> Result<Value> {
        let rows = self.json("ls")?;
        let found = rows.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name));
        found.cloned().with_context(|| format!("no partition {name} in {rows}"))
    }

    /// Waits for a state with `lpar wait`.
    ///
    /// # Errors
    /// When it is not reached within a minute.
    pub fn wait(&self, name: &str, state: &str) -> Result<()> {
        self.run_all(["wait", name, "--state", state, "--timeout", "60s"])?.expect(0)?;
        Ok(())
    }

    /// The events of the frame so far.
    ///
    /// # Errors
    /// When they cannot be had.
    pub fn events(&self) -> Result<Vec<Value>> {
        let events = self.json("events")?;
        events.as_array().cloned().context("events are no array")
    }

    /// Waits for an event with `code` that names `partition` (any when empty), and gives it.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn event(&self, code: &str, partition: &str) -> Result<Value> {
        crate::wait::until(&format!("an event {code} of {partition:?}"), || {
            Ok(self.events()?.into_iter().find(|event| {
                let names = event["partitions"].as_array();
                event["code"] == code
                    && (partition.is_empty() || names.is_some_and(|names| names.iter().any(|name| name == partition)))
            }))
        })
    }
}
