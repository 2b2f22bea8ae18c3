//! The line to the emulated machine's agent: one request, one answer.
//!
//! A request is `ID SECONDS COMMAND`, its answer `answer ID STATUS STDOUT STDERR`, a line each; command and
//! outputs are in base64, `-` stands for an empty output. The other side is `host-init.sh`.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::base64;

/// The agent cuts each output at this many bytes.
pub const OUTPUT_LIMIT: usize = 1 << 20;
/// Two outputs in base64 and the words before them.
const LINE_LIMIT: usize = 2 * (OUTPUT_LIMIT.div_ceil(3) * 4) + 256;
/// Added to a command's own deadline: the agent ends the command first, and says so.
const GRACE: Duration = Duration::from_secs(30);

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit status, as a shell has it: above 128 it was ended by signal `status - 128`.
    pub status: i32,
    /// Standard output, at most [`OUTPUT_LIMIT`] bytes of it.
    pub stdout: String,
    /// Standard error, at most [`OUTPUT_LIMIT`] bytes of it.
    pub stderr: String,
}

impl Output {
    /// Whether the command exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// The other side closed the line, or the line broke.
    Closed,
    /// The deadline passed.
    Deadline,
    /// The deadline passed, and the agent did not even end the command, which it does whatever that is at.
    Dead,
    /// What came is no answer to the request.
    Nonsense(String),
}

/// The line, with what was read of the next answer.
#[derive(Debug)]
pub(crate) struct Line {
    stream: UnixStream,
    buffer: Vec<u8>,
    next_id: u64,
}

impl Line {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new(), next_id: 1 }
    }

    /// Waits until the agent says that it listens.
    pub(crate) fn wait_ready(&mut self, until: Instant) -> Result<(), Silence> {
        match self.read_line(until)?.as_str() {
            "ready" => Ok(()),
            other => Err(nonsense("before it was ready", other)),
        }
    }

    /// Runs `command` in the agent's shell; past `deadline` the agent ends it and all it started in its session.
    pub(crate) fn run(&mut self, command: &str, deadline: Duration) -> Result<Output, Silence> {
        let (id, start) = (self.next_id, Instant::now());
        self.next_id += 1;
        let seconds = deadline.as_secs().max(1);
        let request = format!("{id} {seconds} {}\n", base64::encode(command.as_bytes()));
        self.stream.set_write_timeout(Some(deadline + GRACE)).map_err(|_| Silence::Closed)?;
        self.stream.write_all(request.as_bytes()).map_err(|_| Silence::Closed)?;
        let until = start + deadline + GRACE;
        loop {
            // The agent ends a command in time: when it is silent too, nothing in the machine runs.
            let line = self.read_line(until).map_err(|silence| match silence {
                Silence::Deadline => Silence::Dead,
                other => other,
            })?;
            let (answered, output) = parse_answer(&line)?;
            // An answer that came too late for an earlier request is passed over.
            if answered < id {
                continue;
            }
            if answered > id {
                return Err(nonsense("to a request that was not made", &line));
            }
            let killed = output.status == 128 + 9;
            return if killed && start.elapsed() >= deadline { Err(Silence::Deadline) } else { Ok(output) };
        }
    }

    fn read_line(&mut self, until: Instant) -> Result<String, Silence> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return Ok(String::from_utf8_lossy(&line[..line.len() - 1]).into_owned());
            }
            searched = self.buffer.len();
            if searched > LINE_LIMIT {
                return Err(Silence::Nonsense(format!("more than {LINE_LIMIT} bytes without an end of line")));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Silence::Deadline);
            }
            self.stream.set_read_timeout(Some(left)).map_err(|_| Silence::Closed)?;
            let mut chunk = [0; 16384];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Silence::Closed),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Silence::Closed),
            }
        }
    }
}

fn parse_answer(line: &str) -> Result<(u64, Output), Silence> {
    let words: Vec<_> = line.split(' ').collect();
    let &["answer", id, status, stdout, stderr] = words.as_slice() else {
        return Err(nonsense("with something that is no answer", line));
    };
    let text = |word: &str| {
        let bytes = if word == "-" { Vec::new() } else { base64::decode(word)? };
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    match (id.parse(), status.parse(), text(stdout), text(stderr)) {
        (Ok(id), Ok(status), Some(stdout), Some(stderr)) => Ok((id, Output { status, stdout, stderr })),
        _ => Err(nonsense("with fields that cannot be read", line)),
    }
}

fn nonsense(what: &str, line: &str) -> Silence {
    let shown: String = line.chars().take(80).collect();
    Silence::Nonsense(format!("{what}: `{shown}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// A line whose other end has said `answers` and, if told so, hung up.
    fn line(answers: &str, hang_up: bool) -> (Line, Option<UnixStream>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(answers.as_bytes()).unwrap();
        if hang_up {
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
        }
        (Line::new(ours), Some(theirs))
    }

    #[test]
    fn an_answer_is_read_with_its_status_and_both_outputs() {
        let (mut line, _other) = line("ready\nanswer 1 3 b3V0Cg== -\nanswer 2 0 - ZXJy\n", false);
        line.wait_ready(Instant::now() + LONG).unwrap();
        let first = line.run("one", LONG).unwrap();
        assert_eq!(first, Output { status: 3, stdout: "out\n".into(), stderr: String::new() });
        let second = line.run("two", LONG).unwrap();
        assert_eq!(second, Output { status: 0, stdout: String::new(), stderr: "err".into() });
    }

    #[test]
    fn the_request_names_its_number_its_deadline_and_the_command() {
        let (mut line, other) = line("answer 1 0 - -\n", false);
        line.run("echo hello", LONG).unwrap();
        let mut sent = [0; 64];
        let count = other.unwrap().read(&mut sent).unwrap();
        assert_eq!(&sent[..count], b"1 20 ZWNobyBoZWxsbw==\n");
    }

    #[test]
    fn a_late_answer_to_an_earlier_request_is_passed_over() {
        let (mut line, _other) = line("answer 1 0 - -\nanswer 2 7 - -\n", false);
        line.next_id = 2;
        assert_eq!(line.run("second", LONG).unwrap().status, 7);
    }

    #[test]
    fn a_line_that_is_closed_or_speaks_nonsense_is_told_apart() {
        let (mut closed, _other) = line("answer 1 0 -", true);
        assert_eq!(closed.run("x", LONG), Err(Silence::Closed));
        for answer in ["hello\n", "answer 9 0 - -\n", "answer 1 0 !!!! -\n", "answer 1 zero - -\n"] {
            let (mut line, _other) = line(answer, false);
            assert!(matches!(line.run("x", LONG), Err(Silence::Nonsense(_))), "{answer}");
        }
    }

    #[test]
    fn a_deadline_that_has_passed_is_reported_as_such() {
        let (mut line, _other) = line("", false);
        assert_eq!(line.wait_ready(Instant::now()), Err(Silence::Deadline));
    }

    #[test]
    fn a_line_without_end_is_cut_off() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            let chunk = [b'x'; 65536];
            while theirs.write_all(&chunk).is_ok() {}
        });
        let mut line = Line::new(ours);
        assert!(matches!(line.wait_ready(Instant::now() + LONG), Err(Silence::Nonsense(_))));
        drop(line);
        writer.join().unwrap();
    }
}
