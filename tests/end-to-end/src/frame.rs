//! A frame of a test: its file, its root, and the certainty that nothing of it is left.

use crate::host;
use crate::lpar::Lpar;
use crate::wait;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A frame with a root of its own.
#[derive(Debug)]
pub struct Frame {
    directory: tempfile::TempDir,
    /// The command with this frame's root.
    pub lpar: Lpar,
    name: String,
}

impl Frame {
    /// A frame that is not up: `text` is its file, where `@NAME@` stands for a name that no other test has.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(text: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("bh").tempdir()?;
        let name = format!("t{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let frame = Self { lpar: Lpar::new(&directory.path().join("r")), name, directory };
        std::fs::write(frame.file(), beside_others(text).replace("@NAME@", &frame.name))?;
        Ok(frame)
    }

    /// A frame that is up, detached, with every partition that starts by itself running.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(text: &str) -> Result<Self> {
        let frame = Self::new(text)?;
        let file = frame.file();
        frame.lpar.run_all([Path::new("up"), &file, Path::new("--detach")])?.expect(0)?;
        Ok(frame)
    }

    /// The frame's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The frame file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("frame.toml")
    }

    /// A directory for the test's own files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The processes of this frame: its daemons name its directory, its partitions its name.
    fn processes(&self) -> Result<Vec<(u32, String)>> {
        host::processes_of(&[&self.directory.path().to_string_lossy(), &self.name])
    }

    /// Demands that nothing is left: no process, no cgroup, no socket.
    ///
    /// # Errors
    /// When something is left a minute from now.
    pub fn nothing_left(&self) -> Result<()> {
        let mut left = String::new();
        wait::until("nothing left behind", || {
            let processes = self.processes()?;
            let cgroups = host::cgroups_of(&self.name);
            let sockets = sockets_below(self.directory.path());
            left = format!("processes {processes:?}, cgroups {cgroups:?}, sockets {sockets:?}");
            Ok((processes.is_empty() && cgroups.is_empty() && sockets.is_empty()).then_some(()))
        })
        .with_context(|| left)
    }

    /// Brings the frame down and demands that nothing is left.
    ///
    /// # Errors
    /// When it does not come down, or leaves something.
    pub fn down(self) -> Result<()> {
        self.lpar.ok("down --immediate")?;
        self.nothing_left()
    }

    /// Process number of the manager.
    ///
    /// # Errors
    /// When there is none.
    pub fn manager(&self) -> Result<u32> {
        self.daemon("partition-manager")
    }

    /// Process number of the service processor.
    ///
    /// # Errors
    /// When there is none.
    pub fn service_processor(&self) -> Result<u32> {
        self.daemon("service-processor")
    }

    /// Process number of a partition.
    ///
    /// # Errors
    /// When it has none.
    pub fn partition(&self, name: &str) -> Result<u32> {
        let row = self.lpar.row(name)?;
        let pid = row["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.with_context(|| format!("{name} has no process: {row}"))
    }

    /// The processes of this frame's partitions: name and process number, one entry each.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn partition_processes(&self) -> Result<Vec<(String, u32)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            let Some(pid) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) else {
                continue;
            };
            let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
            let title =
                String::from_utf8_lossy(command.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned();
            if let Some(title) = title.strip_prefix(&format!("partition {}.", self.name))
                && let Some((_, name)) = title.split_once('/')
                && host::runs(pid)
            {
                found.push((name.to_owned(), pid));
            }
        }
        Ok(found)
    }

    /// The names of the sockets of this frame's partitions.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn partition_sockets(&self) -> Result<std::collections::BTreeSet<String>> {
        let entries = std::fs::read_dir(self.directory.path().join("r/run/p"))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn daemon(&self, binary: &str) -> Result<u32> {
        wait::until(&format!("one process {binary}"), || {
            let all = self.processes()?;
            let mut ours = all.into_iter().filter(|(_, command)| {
                command.split(' ').next().is_some_and(|program| program.ends_with(&format!("/{binary}")))
            });
            let first = ours.next();
            ensure!(ours.next().is_none() || first.is_none(), "two of {binary} run at once");
            Ok(first.map(|(pid, _)| pid))
        })
    }
}

impl Drop for Frame {
    /// Whatever a failed test left is ended: the processes of this frame, which all carry its directory.
    fn drop(&mut self) {
        let _ = self.lpar.run("down --immediate");
        for _ in 0..3 {
            for (pid, _) in self.processes().unwrap_or_default() {
                let _ = host::signal(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// The text of a frame file, of a frame that others may run beside: tests run at once on one machine. One that
/// says whether it shares the host is let alone.
fn beside_others(text: &str) -> String {
    if text.contains("shared_host") {
        text.to_owned()
    } else {
        text.replacen("[frame]\n", "[frame]\nshared_host = true\n", 1)
    }
}

fn sockets_below(directory: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_socket() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}
