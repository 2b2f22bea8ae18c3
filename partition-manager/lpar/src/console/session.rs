//! The joining of the two sides, in one loop that waits for whatever comes first.

use super::escape::Escape;
use anyhow::{Context, Result};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Most typed bytes that wait for the partition; then nothing more is read from standard input.
const MOST_WAITING: usize = 64 * 1024;
/// Once standard input has ended, silence of the partition after which the session ends.
const QUIET: Duration = Duration::from_millis(500);

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The typist left.
    Left,
    /// Standard input ended, and the partition had nothing more to say.
    InputEnded,
    /// Nobody reads standard output any more.
    OutputClosed,
    /// The other side closed the console.
    Closed,
    /// A signal came.
    Signal(i32),
}

/// A session that has begun. The terminal is restored when it is dropped.
#[derive(Debug)]
pub struct Session {
    console: UnixStream,
    signals: UnixStream,
    /// Without signals to take nothing is ever sent here; closed, it would read as one.
    _sender: UnixStream,
    raw: bool,
    escape: Option<Escape>,
    waiting: Vec<u8>,
    reads: bool,
    /// Whether the last byte shown was a carriage return.
    returned: bool,
}

impl Session {
    /// Begins a session on `console`. With `terminal` the terminal is put into raw mode and `~.` leaves; with
    /// `history` nothing is read from standard input.
    ///
    /// # Errors
    /// When the terminal cannot be put into raw mode, or signals cannot be taken.
    pub fn begin(console: UnixStream, terminal: bool, history: bool) -> Result<Self> {
        console.set_nonblocking(true).context("cannot use the console's socket")?;
        let (signals, sender) = UnixStream::pair().context("cannot take signals")?;
        if terminal {
            enable_raw_mode().context("cannot put the terminal into raw mode")?;
        }
        let session = Self {
            console,
            signals,
            _sender: sender.try_clone().context("cannot take signals")?,
            raw: terminal,
            escape: terminal.then(Escape::default),
            waiting: Vec::new(),
            reads: !history,
            returned: false,
        };
        if terminal {
            for signal in [SIGINT, SIGTERM, SIGHUP] {
                let sender = sender.try_clone().context("cannot take signals")?;
                signal_hook::low_level::pipe::register(signal, sender).context("cannot take signals")?;
            }
        }
        Ok(session)
    }

    /// Joins the two sides until one of them ends.
    ///
    /// # Errors
    /// When a side fails.
    pub fn run(mut self) -> Result<End> {
        let stdin = std::io::stdin();
        loop {
            let typing = self.reads && self.waiting.len() < MOST_WAITING;
            let wanted = if self.waiting.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            let mut polled = vec![PollFd::new(&self.console, wanted), PollFd::new(&self.signals, PollFlags::IN)];
            if typing {
                polled.push(PollFd::new(&stdin, PollFlags::IN));
            }
            // Once the input has ended and was delivered, silence ends the session.
            let quiet = (!self.reads && self.waiting.is_empty())
                .then(|| Timespec::try_from(QUIET))
                .transpose()
                .context("cannot wait")?;
            let ready = match poll(&mut polled, quiet.as_ref()) {
                Ok(0) => return Ok(End::InputEnded),
                Ok(_) => polled.iter().map(PollFd::revents).collect::<Vec<_>>(),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno).context("cannot wait"),
            };
            drop(polled);
            let any = |index: usize| ready.get(index).is_some_and(|events| !events.is_empty());
            if any(1) {
                let mut byte = [0; 1];
                let _ = rustix::io::read(&self.signals, &mut byte);
                return Ok(End::Signal(SIGTERM));
            }
            if let Some(end) = self.show()? {
                return Ok(end);
            }
            self.pass_on()?;
            if any(2)
                && let Some(end) = self.typed(stdin.as_fd())?
            {
                return Ok(end);
            }
        }
    }

    fn show(&mut self) -> Result<Option<End>> {
        let mut bytes = [0; 16 * 1024];
        let read = match rustix::io::read(&self.console, &mut bytes) {
            Ok(0) | Err(Errno::CONNRESET) => return Ok(Some(End::Closed)),
            Ok(length) => bytes.get(..length).unwrap_or_default(),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno).context("the console failed"),
        };
        let mut output = std::io::stdout().lock();
        let written = if self.raw {
            let shown = returned(read, &mut self.returned);
            output.write_all(&shown)
        } else {
            output.write_all(read)
        };
        match written.and_then(|()| output.flush()) {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Some(End::OutputClosed)),
            Err(error) => Err(error).context("cannot write to standard output"),
        }
    }

    fn pass_on(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        match rustix::net::send(&self.console, &self.waiting, rustix::net::SendFlags::NOSIGNAL) {
            Ok(length) => {
                self.waiting.drain(..length);
                Ok(())
            }
            // A console that was closed shows as such when it is read.
            Err(Errno::AGAIN | Errno::INTR | Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(errno) => Err(errno).context("the console failed"),
        }
    }

    fn typed(&mut self, stdin: impl AsFd) -> Result<Option<End>> {
        let mut bytes = [0; 4096];
        let length = match rustix::io::read(stdin, &mut bytes) {
            // A terminal that was hung up reads as an error.
            Ok(0) | Err(Errno::IO) => {
                self.reads = false;
                if let Some(escape) = self.escape.take() {
                    self.waiting.extend_from_slice(escape.rest());
                }
                return Ok(None);
            }
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno).context("cannot read standard input"),
        };
        let read = bytes.get(..length).unwrap_or_default();
        match &mut self.escape {
            Some(escape) => {
                let typed = escape.take(read);
                self.waiting.extend(typed.pass);
                if typed.leave {
                    return Ok(Some(End::Left));
                }
            }
            None => self.waiting.extend_from_slice(read),
        }
        self.pass_on()?;
        Ok(None)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.raw {
            // There is nobody left to tell.
            let _ = disable_raw_mode();
            crate::failure::say!();
        }
    }
}

/// A terminal in raw mode does not return the carriage at a line feed; a guest that expects it would write
/// staircases.
fn returned(bytes: &[u8], before: &mut bool) -> Vec<u8> {
    let mut shown = Vec::with_capacity(bytes.len() + 16);
    for &byte in bytes {
        if byte == b'\n' && !*before {
            shown.push(b'\r');
        }
        *before = byte == b'\r';
        shown.push(byte);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_at_the_left() {
        let mut before = false;
        assert_eq!(returned(b"a\nb\r", &mut before), b"a\r\nb\r");
        assert_eq!(returned(b"\nc\n\n", &mut before), b"\nc\r\n\r\n");
    }
}
