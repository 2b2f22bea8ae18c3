//! Where a running frame keeps its things: one place for what runs, one for what stays.

use crate::name::Name;
use std::path::{Path, PathBuf};

/// Longest path of a Unix socket, bytes, without the NUL (`unix(7)`).
pub const LONGEST_SOCKET_PATH: usize = 107;
/// What follows a partition's name in that of its socket for programs of the host.
pub const VSOCK: &str = ".vsock";
/// What stands between a partition's name and a port's in that of the port's socket.
pub const PORT: &str = ".port-";

/// The directories of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Sockets and what is true only while this boot lasts.
    pub run: PathBuf,
    /// What outlives a reboot of the host.
    pub state: PathBuf,
}

/// What of the environment decides where a root is.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Whether the caller is the superuser.
    pub superuser: bool,
    /// `XDG_RUNTIME_DIR`.
    pub runtime: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub state: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
}

/// Why there is no place for a root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// Neither superuser nor the directories that others have.
    #[error(
        "there is no place for the frame's files: {0} is not set; set it, or name a directory with --root or BULKHEAD_ROOT"
    )]
    NoPlace(&'static str),
    /// A socket's path would not fit.
    #[error(
        "the path {path} has {length} bytes, and a Unix socket takes at most {LONGEST_SOCKET_PATH}; choose a shorter --root"
    )]
    TooLong {
        /// The path that does not fit.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
}

impl Root {
    /// Everything under one directory.
    #[must_use]
    pub fn under(directory: &Path) -> Self {
        Self { run: directory.join("run"), state: directory.join("state") }
    }

    /// The directories that hold the frames of this user: for what runs and for what stays.
    ///
    /// # Errors
    /// [`RootError::NoPlace`] for others than the superuser without the XDG directories.
    pub fn bases(environment: &Environment) -> Result<(PathBuf, PathBuf), RootError> {
        if environment.superuser {
            return Ok((PathBuf::from("/run/bulkhead"), PathBuf::from("/var/lib/bulkhead")));
        }
        let run = environment.runtime.as_ref().ok_or(RootError::NoPlace("XDG_RUNTIME_DIR"))?.join("bulkhead");
        let state = match (&environment.state, &environment.home) {
            (Some(state), _) => state.join("bulkhead"),
            (None, Some(home)) => home.join(".local/state/bulkhead"),
            (None, None) => return Err(RootError::NoPlace("HOME")),
        };
        Ok((run, state))
    }

    /// The default place of a frame.
    ///
    /// # Errors
    /// As [`Root::bases`].
    pub fn of_frame(frame: &Name, environment: &Environment) -> Result<Self, RootError> {
        let (run, state) = Self::bases(environment)?;
        Ok(Self { run: run.join(frame.as_str()), state: state.join(frame.as_str()) })
    }

    /// Socket of the manager's API.
    #[must_use]
    pub fn manager_socket(&self) -> PathBuf {
        self.run.join("manager.sock")
    }

    /// Socket of the service processor's API.
    #[must_use]
    pub fn service_processor_socket(&self) -> PathBuf {
        self.run.join("service-processor.sock")
    }

    /// Socket on which the service processor takes the manager's notifications (`sd_notify(3)`).
    #[must_use]
    pub fn manager_notify_socket(&self) -> PathBuf {
        self.run.join("manager-notify.sock")
    }

    /// Socket on which the supervisor takes the service processor's notifications (`sd_notify(3)`).
    #[must_use]
    pub fn service_processor_notify_socket(&self) -> PathBuf {
        self.run.join("service-processor-notify.sock")
    }

    /// The lock that the frame's supervisor holds.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// Log of the daemons when they have no terminal.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.run.join("daemons.log")
    }

    /// The frame in force, as the service processor hands it to the manager: JSON of
    /// [`Frame`](crate::declare::Frame) with absolute paths.
    #[must_use]
    pub fn applied_frame(&self) -> PathBuf {
        self.run.join("frame.json")
    }

    /// What the manager owns and does now: a database for this boot only.
    #[must_use]
    pub fn manager_database(&self) -> PathBuf {
        self.run.join("manager.db")
    }

    /// What the service processor knows of its manager: a database for this boot only.
    #[must_use]
    pub fn surveillance_record(&self) -> PathBuf {
        self.run.join("surveillance.json")
    }

    /// The event log.
    #[must_use]
    pub fn event_database(&self) -> PathBuf {
        self.state.join("events.db")
    }

    /// Directory of the partitions' sockets.
    #[must_use]
    pub fn partitions(&self) -> PathBuf {
        self.run.join("p")
    }

    /// Socket on which one partition listens for its manager.
    #[must_use]
    pub fn partition_socket(&self, partition: &Name) -> PathBuf {
        self.partitions().join(partition.as_str())
    }

    /// Socket on which programs of the host ask for a partition's ports: no partition can have its name.
    #[must_use]
    pub fn vsock(&self, partition: &Name) -> PathBuf {
        self.partitions().join(format!("{partition}{VSOCK}"))
    }

    /// Socket that a program of the host makes to be called by a partition's guest: port `port` of the host. At
    /// [`crate::vsock`] is how.
    #[must_use]
    pub fn vsock_port(&self, partition: &Name, port: u32) -> PathBuf {
        self.partitions().join(format!("{partition}{VSOCK}_{port}"))
    }

    /// Whether a path is that of a [`Root::vsock_port`]: a program's that is no business of the frame, but stands among
    /// the frame's own.
    #[must_use]
    pub fn is_vsock_port(path: &Path) -> bool {
        let port = path.file_name().and_then(|name| name.to_str()?.split_once(VSOCK)?.1.strip_prefix('_'));
        port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// Socket on which programs of the host have a port of a partition's console device.
    #[must_use]
    pub fn console_port(&self, partition: &Name, port: &Name) -> PathBuf {
        self.partitions().join(format!("{partition}{PORT}{port}"))
    }

    /// The partition whose socket has this file name among [`Root::partitions`]; none where it is a program's own.
    #[must_use]
    pub fn partition_of(file: &str) -> Option<Name> {
        let name = file.strip_suffix(VSOCK).or_else(|| Some(file.split_once(PORT)?.0)).unwrap_or(file);
        Name::new(name).ok()
    }

    /// The sockets that the frame has whatever partitions it has.
    #[must_use]
    pub fn sockets(&self) -> [PathBuf; 4] {
        [
            self.manager_socket(),
            self.service_processor_socket(),
            self.manager_notify_socket(),
            self.service_processor_notify_socket(),
        ]
    }

    /// Checks that every socket's path can be bound.
    ///
    /// # Errors
    /// [`RootError::TooLong`] names the longest one.
    pub fn check<'a>(&self, partitions: impl IntoIterator<Item = &'a Name>) -> Result<(), RootError> {
        let all = self.sockets().into_iter().chain(partitions.into_iter().map(|name| self.partition_socket(name)));
        match all.max_by_key(|path| path.as_os_str().len()) {
            Some(path) if path.as_os_str().len() > LONGEST_SOCKET_PATH => {
                let length = path.as_os_str().len();
                Err(RootError::TooLong { path, length })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_host_are_told_from_the_frames_own_sockets() {
        let (root, name) = (Root::under(Path::new("/r")), Name::new("a").unwrap());
        assert_eq!(root.vsock_port(&name, 7), Path::new("/r/run/p/a.vsock_7"));
        assert!(Root::is_vsock_port(&root.vsock_port(&name, u32::MAX)));
        let port = Name::new("agent").unwrap();
        for own in [root.vsock(&name), root.partition_socket(&name), root.console_port(&name, &port)] {
            let file = own.file_name().unwrap().to_str().unwrap();
            assert_eq!(Root::partition_of(file), Some(name.clone()), "{file}");
        }
        assert_eq!(Root::partition_of("a.vsock_7"), None);
        for own in [root.vsock(&name), root.partition_socket(&name), root.partitions().join("a.vsock_x")] {
            assert!(!Root::is_vsock_port(&own), "{}", own.display());
        }
    }

    #[test]
    fn places_follow_the_user() {
        let name = Name::new("rack7").unwrap();
        let root = Root::of_frame(&name, &Environment { superuser: true, ..Environment::default() }).unwrap();
        assert_eq!(root.manager_socket(), Path::new("/run/bulkhead/rack7/manager.sock"));
        assert_eq!(root.event_database(), Path::new("/var/lib/bulkhead/rack7/events.db"));
        let user =
            Environment { runtime: Some("/run/user/5".into()), home: Some("/home/u".into()), ..Environment::default() };
        let root = Root::of_frame(&name, &user).unwrap();
        assert_eq!(root.run, Path::new("/run/user/5/bulkhead/rack7"));
        assert_eq!(root.state, Path::new("/home/u/.local/state/bulkhead/rack7"));
        assert_eq!(Root::of_frame(&name, &Environment::default()), Err(RootError::NoPlace("XDG_RUNTIME_DIR")));
    }

    #[test]
    fn long_sockets_are_refused_before_anything_is_made() {
        let root = Root::under(Path::new(&format!("/{}", "d".repeat(90))));
        assert_eq!(root.check([]).map_err(|_| ()), Err(()));
        let root = Root::under(Path::new("/tmp/x"));
        assert_eq!(root.check([&Name::new("a".repeat(63)).unwrap()]), Ok(()));
    }
}
