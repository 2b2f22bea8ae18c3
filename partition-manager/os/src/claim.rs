//! Claims on CPUs, host wide: two frames may not use one CPU unless both agree to share.
//!
//! A claim is a file in a directory where every user may make files and nobody may remove another's. It is
//! true for as long as somebody has a lock on it: open-file-description locks (`fcntl(2)`, `F_OFD_SETLK`),
//! which the kernel drops when the last descriptor of their open file goes, whatever ends its holder. The
//! supervisor, the manager and each partition have one each, so that a claim lasts as long as any of them.
//!
//! A claim is made whole before it can be seen, and is seen before others are looked at: of two frames that
//! come up at one moment at least one meets the other. Which of the two gives way is decided by their names.
//!
//! Whoever may claim CPUs may keep others from them; more than that nobody gains here. Files are not written
//! to once they can be seen, and only their owner may remove them.

use frame::cpuset::CpuSet;
use frame::name::Name;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the system keeps locks (FHS 3.0, section 5.9; `/run/lock` on hosts with `/run`).
const LOCKS: &str = "/run/lock";
/// What the name of every claim begins with.
const PREFIX: &str = "bulkhead-claim.";
/// What the name of a claim that is not made yet ends with.
const UNFINISHED: &str = ".new";
/// Largest claim that is read, bytes.
const LARGEST: u64 = 1 << 20;
/// Most claims that are looked at.
const MOST: usize = 65_536;
/// Locked while a claim holds.
const HELD: libc::off_t = 0;
/// Locked while its maker has not looked at the others.
const ASKING: libc::off_t = 1;
/// How long another that is just asking may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it has.
const AGAIN: Duration = Duration::from_millis(2);

/// Who claims what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimant {
    /// The frame.
    pub frame: Name,
    /// Its run directory, without links.
    pub root: PathBuf,
    /// The process that brought it up.
    pub pid: u32,
    /// The host's CPUs that it may use.
    pub cpus: CpuSet,
    /// Whether another frame that shares too may use them as well.
    pub shared: bool,
}

impl Claimant {
    /// A frame with its run directory and its bound, all CPUs when it has none, as this process brings it up.
    ///
    /// # Errors
    /// When the host does not say what CPUs it has.
    pub fn of(frame: &frame::declare::Frame, run: &Path) -> io::Result<Self> {
        let cpus = match &frame.cpus {
            Some(cpus) => cpus.clone(),
            None => present()?,
        };
        let (frame, shared) = (frame.name.clone(), frame.shared_host);
        Ok(Self { frame, root: real(run), pid: std::process::id(), cpus, shared })
    }

    /// Whether both cannot be.
    fn excludes(&self, other: &Self) -> bool {
        let share = self.shared && other.shared;
        !share && !self.cpus.intersection(&other.cpus).is_empty()
    }
}

/// Why CPUs could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// There is no place for claims that all users of this host share.
    #[error(
        "CPUs cannot be claimed: {LOCKS} is not a directory of the superuser in which everybody may make files, and neither is {LOCKS}/bulkhead; as the superuser run `install -d -m 1777 {LOCKS}/bulkhead`"
    )]
    NoPlace,
    /// The host refused.
    #[error("CPUs cannot be claimed in {}", .path.display())]
    System {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another frame has some of them.
    #[error("{0}")]
    Taken(Box<Taken>),
}

/// Another frame has CPUs that this one wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Who wants them.
    pub wanted: Claimant,
    /// Who has them.
    pub holder: Claimant,
    /// The user whose claim it is.
    pub user: u32,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { wanted, holder, user } = self;
        let both = wanted.cpus.intersection(&holder.cpus);
        let share = match (wanted.shared, holder.shared) {
            (false, true) => {
                format!("set `shared_host = true` in [frame] of {} as {} has it", wanted.frame, holder.frame)
            }
            (true, false) => format!("set `shared_host = true` in [frame] of {} too", holder.frame),
            _ => "set `shared_host = true` in [frame] of both".to_owned(),
        };
        write!(
            f,
            "frame {} may not use CPU {both} of this host: frame {} claims CPU {} (up at {} since process {} of user {user}); \
             give each its own with `cpus` in [frame], bring {} down, or {share}",
            wanted.frame,
            holder.frame,
            holder.cpus,
            holder.root.display(),
            holder.pid,
            holder.frame,
        )
    }
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), ..) => real,
        (Err(_), Some(above), Some(name)) => real(above).join(name),
        _ => path.to_owned(),
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ClaimError {
    let path = path.to_owned();
    move |source| ClaimError::System { path, source }
}

/// The directory of this host's claims. The superuser makes it where the system has none.
///
/// # Errors
/// [`ClaimError`].
pub fn directory() -> Result<PathBuf, ClaimError> {
    let locks = PathBuf::from(LOCKS);
    if is_for_all(&locks) {
        return Ok(locks);
    }
    let own = locks.join("bulkhead");
    if !is_for_all(&own) && rustix::process::geteuid().is_root() {
        std::fs::create_dir_all(&own).map_err(failed(&own))?;
        std::fs::set_permissions(&own, Permissions::from_mode(0o1777)).map_err(failed(&own))?;
    }
    if is_for_all(&own) { Ok(own) } else { Err(ClaimError::NoPlace) }
}

/// Whether everybody may make files there, and nobody but the superuser may remove another's.
fn is_for_all(directory: &Path) -> bool {
    std::fs::symlink_metadata(directory)
        .is_ok_and(|found| found.is_dir() && found.uid() == 0 && found.mode() & 0o1002 == 0o1002)
}

/// The CPUs that the host has, whether they are online or not (`/sys/devices/system/cpu/present`): what a
/// frame without a bound claims.
///
/// # Errors
/// When the host does not say.
pub fn present() -> io::Result<CpuSet> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/present")?;
    CpuSet::parse(text.trim()).map_err(io::Error::other)
}

/// Removes the claims that nobody holds any more, as far as this user may.
///
/// # Errors
/// [`ClaimError`].
pub fn sweep(directory: &Path) -> Result<(), ClaimError> {
    scan(directory).map(drop)
}

/// A claim, held.
#[derive(Debug)]
pub struct Claim {
    file: File,
    path: PathBuf,
}

impl Claim {
    /// Claims CPUs, or joins the claim that the same frame under the same root made before.
    ///
    /// # Errors
    /// [`ClaimError`]; then nothing is claimed and nothing is left.
    pub fn take(directory: &Path, wanted: &Claimant) -> Result<Self, ClaimError> {
        let own = rustix::process::geteuid().as_raw();
        let same = |found: &Found| {
            let claimant = Claimant { pid: wanted.pid, ..found.claimant.clone() };
            found.user == own && claimant == *wanted
        };
        for found in scan(directory)?.into_iter().filter(same) {
            if let Some(joined) = Self::join(found.path).map_err(failed(directory))? {
                return Ok(joined);
            }
        }
        let claim = Self::publish(directory, wanted).map_err(failed(directory))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match claim.judge(wanted, own, scan(directory)?) {
                Verdict::Free => {
                    lock(&claim.file, libc::F_OFD_SETLK, libc::F_UNLCK, ASKING, 1).map_err(failed(&claim.path))?;
                    return Ok(claim);
                }
                Verdict::Wait(_) if Instant::now() < deadline => std::thread::sleep(AGAIN),
                Verdict::Taken(taken) | Verdict::Wait(taken) => {
                    claim.remove();
                    return Err(ClaimError::Taken(taken));
                }
            }
        }
    }

    /// Says who else has some of the CPUs now, without claiming any.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn check(directory: &Path, wanted: &Claimant) -> Result<(), ClaimError> {
        let own = rustix::process::geteuid().as_raw();
        match scan(directory)?.into_iter().find(|found| found.stands_against(wanted, own)) {
            Some(found) => Err(ClaimError::Taken(found.taken(wanted))),
            None => Ok(()),
        }
    }

    /// Another hold on the claim, which outlives this one: for a child. Whoever has it can let go of nothing
    /// but itself, and can write nothing.
    ///
    /// # Errors
    /// The error of the system call that failed.
    pub fn another(&self) -> io::Result<OwnedFd> {
        // The same file, whatever became of its name, with locks of its own.
        let file = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?;
        lock(&file, libc::F_OFD_SETLK, libc::F_RDLCK, HELD, 1)?;
        Ok(file.into())
    }

    /// Lets children that are started from now on inherit this very hold.
    ///
    /// # Errors
    /// The error of `fcntl(2)`.
    pub fn inherit(&self) -> io::Result<()> {
        Ok(rustix::io::fcntl_setfd(&self.file, rustix::io::FdFlags::empty())?)
    }

    /// Gives the claim up, and removes it unless somebody else holds it.
    pub fn remove(self) {
        // What stays is no claim once nobody holds it, and goes when the next one looks.
        let _ = remove(&self.file, &self.path);
    }

    fn publish(directory: &Path, wanted: &Claimant) -> io::Result<Self> {
        let text = serde_json::to_vec(wanted)?;
        let number = crate::process::start_time(std::process::id())?;
        let base = format!("{PREFIX}{}.{number}", std::process::id());
        let (mut file, unfinished) = first_free(|attempt| {
            let path = directory.join(format!("{base}.{attempt}{UNFINISHED}"));
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            Ok((file, path))
        })?;
        let mut make = || {
            // Whatever the mask: others must be able to read who it is.
            file.set_permissions(Permissions::from_mode(0o644))?;
            file.write_all(&text)?;
            lock(&file, libc::F_OFD_SETLK, libc::F_RDLCK, HELD, 2)?;
            first_free(|attempt| {
                let path = directory.join(format!("{base}.{attempt}"));
                std::fs::hard_link(&unfinished, &path)?;
                Ok(path)
            })
        };
        let made = make();
        // What cannot be removed is no claim: its name says so.
        let _ = std::fs::remove_file(&unfinished);
        Ok(Self { path: made?, file })
    }

    /// Holds a claim that somebody holds already; none when it is gone.
    fn join(path: PathBuf) -> io::Result<Option<Self>> {
        let file = match File::options().read(true).write(true).custom(OFlags::NOFOLLOW).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match lock(&file, libc::F_OFD_SETLK, libc::F_RDLCK, HELD, 1) {
            // Somebody removes it just now.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            locked => locked?,
        };
        let there = std::fs::symlink_metadata(&path);
        let here = file.metadata()?;
        let same = there.is_ok_and(|there| (there.ino(), there.dev()) == (here.ino(), here.dev()));
        Ok(same.then_some(Self { file, path }))
    }

    fn judge(&self, wanted: &Claimant, own: u32, all: Vec<Found>) -> Verdict {
        let name = self.path.file_name();
        let mut verdict = Verdict::Free;
        for found in all.into_iter().filter(|found| found.path != self.path && found.stands_against(wanted, own)) {
            if found.asking && found.path.file_name() > name {
                // It has seen, or will see, this claim, and gives way unless it had looked before.
                verdict = Verdict::Wait(found.taken(wanted));
            } else {
                return Verdict::Taken(found.taken(wanted));
            }
        }
        verdict
    }
}

enum Verdict {
    Free,
    Wait(Box<Taken>),
    Taken(Box<Taken>),
}

/// A claim of anybody's that holds.
#[derive(Debug)]
struct Found {
    path: PathBuf,
    user: u32,
    asking: bool,
    claimant: Claimant,
}

impl Found {
    /// An earlier claim of the same frame is the frame's own.
    fn stands_against(&self, wanted: &Claimant, own: u32) -> bool {
        let same = self.user == own && self.claimant.root == wanted.root;
        !same && self.claimant.excludes(wanted)
    }

    fn taken(self, wanted: &Claimant) -> Box<Taken> {
        Box::new(Taken { wanted: wanted.clone(), holder: self.claimant, user: self.user })
    }
}

/// All claims that hold. Those that nobody holds are removed on the way, as far as this user may.
fn scan(directory: &Path) -> Result<Vec<Found>, ClaimError> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed(directory))?.take(MOST) {
        let entry = entry.map_err(failed(directory))?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            // What cannot be opened or read is none, or is gone.
            all.extend(look(&entry.path()).unwrap_or_default());
        }
    }
    Ok(all)
}

fn look(path: &Path) -> io::Result<Option<Found>> {
    let unfinished = path.as_os_str().as_encoded_bytes().ends_with(UNFINISHED.as_bytes());
    let file = File::options().read(true).custom(OFlags::NOFOLLOW.union(OFlags::NONBLOCK)).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Ok(None);
    }
    if unfinished {
        // A maker that was killed half-way never locked it, or locks nothing any more.
        if !is_locked(&file, HELD)? && made_by(path).is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_file(path);
        }
        return Ok(None);
    }
    if !is_locked(&file, HELD)? {
        if let Ok(writable) = File::options().read(true).write(true).custom(OFlags::NOFOLLOW).open(path) {
            remove(&writable, path)?;
        }
        return Ok(None);
    }
    let mut text = Vec::new();
    (&file).take(LARGEST).read_to_end(&mut text)?;
    // One that cannot be read says nothing of any CPU.
    let Ok(claimant) = serde_json::from_slice(&text) else { return Ok(None) };
    let asking = is_locked(&file, ASKING)?;
    Ok(Some(Found { path: path.to_owned(), user: metadata.uid(), asking, claimant }))
}

/// The process number in the name of a claim.
fn made_by(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('.').next()
}

/// Removes a claim that nobody but this very open file holds. Whoever joins it at this moment is kept off by
/// the lock, and finds that it is gone.
fn remove(file: &File, path: &Path) -> io::Result<()> {
    match lock(file, libc::F_OFD_SETLK, libc::F_WRLCK, HELD, 2) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error),
    }
    let (here, there) = (file.metadata()?, std::fs::symlink_metadata(path)?);
    if (here.ino(), here.dev()) == (there.ino(), there.dev()) { std::fs::remove_file(path) } else { Ok(()) }
}

/// Whether another open file has a lock on this byte.
fn is_locked(file: &File, byte: libc::off_t) -> io::Result<bool> {
    Ok(lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, byte, 1)? != libc::F_UNLCK)
}

/// One request about locks (`fcntl(2)`, "Open file description locks (non-POSIX)"); gives the kind of lock
/// that stands in its way, or what was asked for.
fn lock(file: &File, command: i32, kind: i32, start: libc::off_t, length: libc::off_t) -> io::Result<i32> {
    let narrow = |number: i32| libc::c_short::try_from(number).map_err(io::Error::other);
    let mut about = libc::flock {
        l_type: narrow(kind)?,
        l_whence: narrow(libc::SEEK_SET)?,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and the kernel reads and writes the one structure of its request.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut about) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(about.l_type.into()) }
}

/// Tries names until one is free: files of others may stand in the way, but not in all.
fn first_free<T>(mut attempt: impl FnMut(u32) -> io::Result<T>) -> io::Result<T> {
    let mut number = 0;
    loop {
        match attempt(number) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
            outcome => return outcome,
        }
    }
}

/// Flags that the standard library has no word for.
trait Custom {
    fn custom(&mut self, flags: OFlags) -> &mut Self;
}

impl Custom for std::fs::OpenOptions {
    fn custom(&mut self, flags: OFlags) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt;
        self.custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant(frame: &str, cpus: &str, shared: bool) -> Claimant {
        Claimant {
            frame: Name::new(frame).unwrap(),
            root: PathBuf::from("/run/bulkhead").join(frame),
            pid: std::process::id(),
            cpus: CpuSet::parse(cpus).unwrap(),
            shared,
        }
    }

    fn files(directory: &Path) -> usize {
        std::fs::read_dir(directory).unwrap().count()
    }

    fn taken(directory: &Path, wanted: &Claimant) -> Box<Taken> {
        match Claim::take(directory, wanted) {
            Err(ClaimError::Taken(taken)) => taken,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_cpu_has_one_frame() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let first = Claim::take(at, &claimant("a", "0-3", false)).unwrap();
        let refused = taken(at, &claimant("b", "3-4", false)).to_string();
        for part in ["frame b may not use CPU 3 ", "frame a claims CPU 0-3", "/run/bulkhead/a", "both"] {
            assert!(refused.contains(part), "{refused}");
        }
        assert_eq!(files(at), 1, "one that is refused leaves nothing");
        assert!(Claim::check(at, &claimant("b", "3", true)).is_err());
        let other = Claim::take(at, &claimant("b", "4-7", false)).unwrap();
        assert!(Claim::check(at, &claimant("c", "0-7", false)).is_err());
        first.remove();
        other.remove();
        assert_eq!(files(at), 0);
        Claim::take(at, &claimant("c", "0-7", false)).unwrap().remove();
    }

    #[test]
    fn frames_share_when_both_say_so() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let first = Claim::take(at, &claimant("a", "0-3", true)).unwrap();
        let second = Claim::take(at, &claimant("b", "0-3", true)).unwrap();
        let refused = taken(at, &claimant("c", "0", false)).to_string();
        assert!(refused.contains("of c as"), "{refused}");
        first.remove();
        second.remove();
    }

    /// Takes what was just given up. A child that another test starts holds every descriptor of this process until it
    /// runs its program.
    fn take_soon(at: &Path, claimant: &Claimant) -> Claim {
        let start = Instant::now();
        loop {
            match Claim::take(at, claimant) {
                Ok(claim) => return claim,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(10), "{error}"),
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_claim_lasts_as_long_as_any_hold_on_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let first = Claim::take(at, &claimant("a", "0", false)).unwrap();
        let child = first.another().unwrap();
        drop(first);
        taken(at, &claimant("b", "0", false));
        // The same frame comes back, as another process.
        let back = Claim::take(at, &Claimant { pid: 1, ..claimant("a", "0", false) }).unwrap();
        assert_eq!(files(at), 1, "it joins its claim");
        drop(child);
        taken(at, &claimant("b", "0", false));
        drop(back);
        // Nobody removed it; nobody holds it.
        assert_eq!(files(at), 1);
        take_soon(at, &claimant("b", "0", false)).remove();
        assert_eq!(files(at), 0);
    }

    #[test]
    fn a_claim_that_is_held_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let first = Claim::take(at, &claimant("a", "0", false)).unwrap();
        let child = first.another().unwrap();
        first.remove();
        taken(at, &claimant("b", "0", false));
        drop(child);
        take_soon(at, &claimant("b", "0", false));
    }

    #[test]
    fn a_frame_that_changes_its_bound_is_not_in_its_own_way() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let first = Claim::take(at, &claimant("a", "0-1", false)).unwrap();
        let second = Claim::take(at, &claimant("a", "0-3", false)).unwrap();
        taken(at, &claimant("b", "3", false));
        second.remove();
        first.remove();
    }

    #[test]
    fn of_many_at_once_exactly_one_wins() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let names: Vec<String> = (0..6).map(|number| format!("f{round}-{number}")).collect();
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let all: Vec<_> = names
                    .iter()
                    .map(|name| scope.spawn(|| Claim::take(directory.path(), &claimant(name, "0-1", false))))
                    .collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let won: Vec<&Claim> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
            assert_eq!(won.len(), 1, "{outcomes:?}");
            assert_eq!(files(directory.path()), 1);
        }
    }

    #[test]
    fn foreign_files_are_no_claims() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        std::fs::write(at.join("bulkhead-claim.1.1.0"), "{}").unwrap();
        std::os::unix::fs::symlink("/dev/zero", at.join("bulkhead-claim.2")).unwrap();
        std::fs::create_dir(at.join("bulkhead-claim.3")).unwrap();
        let fifo = rustix::fs::mknodat(
            rustix::fs::CWD,
            at.join("bulkhead-claim.4"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        );
        fifo.unwrap();
        let nonsense = at.join("bulkhead-claim.5");
        std::fs::write(&nonsense, "nonsense").unwrap();
        let held = File::open(&nonsense).unwrap();
        lock(&held, libc::F_OFD_SETLK, libc::F_RDLCK, HELD, 1).unwrap();
        Claim::take(at, &claimant("a", "0", false)).unwrap().remove();
        assert!(nonsense.exists(), "what somebody holds is let alone");
    }

    #[test]
    fn a_child_that_inherits_holds_the_claim() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let first = Claim::take(at, &claimant("a", "0", false)).unwrap();
        first.inherit().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        drop(first);
        let refused = Claim::check(at, &claimant("b", "0", false)).is_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(refused);
        assert!(Claim::check(at, &claimant("b", "0", false)).is_ok());
    }

    #[test]
    fn the_host_has_cpus() {
        assert!(present().unwrap().contains(0));
    }
}
