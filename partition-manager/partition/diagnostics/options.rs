//! The payload's command line: `name=NAME beat=MS run=COMMAND[:NUMBER]`. Pure.

use super::command::{self, Command};
use super::digits;

/// Most bytes of a name.
const NAME_LENGTH: usize = 63;
/// Beat interval where none is given, milliseconds.
const DEFAULT_BEAT: u64 = 10;

/// What the command line asks for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    name: [u8; NAME_LENGTH],
    name_length: usize,
    /// Interval between beats, milliseconds, 1 to 10000.
    pub beat: u64,
    /// What to do once up, and then power off.
    pub run: Option<Command>,
    /// A `run=` that is no command was ignored.
    pub run_mistaken: bool,
}

impl Options {
    /// The name that goes before every line: printable, not empty.
    pub fn name(&self) -> &[u8] {
        self.name.get(..self.name_length).unwrap_or_default()
    }
}

/// Reads a command line. Words that mean nothing here are somebody else's and are passed over; of a word
/// that comes twice, the last counts.
pub fn parse(line: &[u8]) -> Options {
    let mut options =
        Options { name: [0; NAME_LENGTH], name_length: 0, beat: DEFAULT_BEAT, run: None, run_mistaken: false };
    set_name(&mut options, b"diagnostics");
    for word in line.split(|&byte| byte == b' ') {
        if let Some(name) = word.strip_prefix(b"name=") {
            set_name(&mut options, name);
        } else if let Some(beat) = word.strip_prefix(b"beat=") {
            options.beat = digits::parse(beat).map_or(DEFAULT_BEAT, |beat| beat.clamp(1, 10_000));
        } else if let Some(run) = word.strip_prefix(b"run=") {
            let run = command::parse_run(run);
            options.run = run.ok();
            options.run_mistaken = run.is_err();
        }
    }
    options
}

fn set_name(options: &mut Options, name: &[u8]) {
    if name.is_empty() {
        return;
    }
    options.name_length = 0;
    for (to, &from) in options.name.iter_mut().zip(name) {
        *to = if from.is_ascii_graphic() { from } else { b'?' };
        options.name_length += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_and_others_are_passed_over() {
        let options = parse(b"console=ttyS0 name=batch beat=25 run=exits:100 quiet");
        assert_eq!((options.name(), options.beat), (b"batch".as_slice(), 25));
        assert_eq!((options.run, options.run_mistaken), (Some(Command::Exits(100)), false));
    }

    #[test]
    fn an_empty_line_gives_the_defaults() {
        let options = parse(b"");
        assert_eq!((options.name(), options.beat, options.run), (b"diagnostics".as_slice(), 10, None));
    }

    #[test]
    fn what_is_out_of_range_is_brought_into_it() {
        assert_eq!(parse(b"beat=0").beat, 1);
        assert_eq!(parse(b"beat=99999999").beat, 10_000);
        assert_eq!(parse(b"beat=often").beat, DEFAULT_BEAT);
        assert_eq!(parse(&[b"name=".as_slice(), &[b'x'; 200]].concat()).name(), [b'x'; NAME_LENGTH]);
        assert_eq!(parse(b"name=a\x1b[2J").name(), b"a?[2J");
        assert_eq!(parse(b"name=").name(), b"diagnostics");
        assert!(parse(b"run=nonsense").run_mistaken);
    }
}
