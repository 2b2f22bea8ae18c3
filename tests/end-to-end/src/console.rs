//! A console session through `lpar console`, and what the diagnostics payload says on it.

use crate::lpar::Lpar;
use crate::wait::DEADLINE;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// A session on the console of one partition.
#[derive(Debug)]
pub struct Console {
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    seen: String,
    marks: u32,
}

impl Console {
    /// Opens the console; what it printed before comes first.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn open(lpar: &Lpar, partition: &str) -> Result<Self> {
        Self::begin(lpar.command(["console", partition])?)
    }

    /// Opens a port of the partition's console device.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn port(lpar: &Lpar, partition: &str, port: &str) -> Result<Self> {
        Self::begin(lpar.command(["console", partition, "--port", port])?)
    }

    fn begin(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("no standard input")?;
        let mut stdout = child.stdout.take().context("no standard output")?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut bytes) {
                if sender.send(bytes[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, input, output, seen: String::new(), marks: 0 })
    }

    /// Reads until `text` has been seen since the last call, and gives all up to its end.
    ///
    /// # Errors
    /// When it does not come in time, or the console closes.
    pub fn until(&mut self, text: &str) -> Result<String> {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return Ok(std::mem::replace(&mut self.seen, rest));
            }
            let left = DEADLINE.saturating_sub(start.elapsed());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(_) => bail!("the console did not say {text:?}; it said {:?}", self.seen),
            }
        }
    }

    /// Types one line.
    ///
    /// # Errors
    /// When the console is closed.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.input.write_all(line.as_bytes())?;
        self.input.write_all(b"\n")?;
        self.input.flush()?;
        Ok(())
    }

    /// Reads past everything that the console said before now: what comes next is an answer, not history.
    ///
    /// # Errors
    /// When the guest does not echo what is typed.
    pub fn past_history(&mut self) -> Result<()> {
        self.marks += 1;
        let mark = format!("mark-{}-{}", self.child.id(), self.marks);
        self.type_line(&mark)?;
        self.until(&mark)?;
        Ok(())
    }

    /// Types a command of the diagnostics payload and gives the fields `key=value` of its answer line, the
    /// first line from now on in which `key` is followed by `=`.
    ///
    /// # Errors
    /// When no such line comes in time.
    pub fn ask(&mut self, command: &str, key: &str) -> Result<BTreeMap<String, u64>> {
        self.past_history()?;
        self.type_line(command)?;
        self.until(&format!("{key}="))?;
        let line = format!("{key}={}", self.until("\n")?);
        let fields = line.split_whitespace().filter_map(|field| {
            let (key, value) = field.split_once('=')?;
            Some((key.to_owned(), value.parse().ok()?))
        });
        Ok(fields.collect())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
