//! The command language of the payload's console. Pure.

use super::digits;

/// What can be asked for, on the console or as `run=` on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Name the commands.
    Help,
    /// Say what the payload has found.
    Info,
    /// Say how it beats.
    Beats,
    /// Start counting anew.
    ResetBeats,
    /// Power off.
    Off,
    /// Reset the machine.
    Reboot,
    /// Run instructions where there is no memory.
    Crash,
    /// Triple fault.
    TripleFault,
    /// Loop with interrupts off.
    Hang,
    /// Never halt again, but keep serving.
    Spin,
    /// Halt when there is nothing to do.
    Idle,
    /// Write this to the exit device.
    Exit(u64),
    /// Measure this many exits.
    Exits(u64),
    /// Read and write this address.
    Wild(u64),
    /// Write this many MiB of memory.
    Dirty(u64),
    /// Say the digest of the pattern written at start.
    Digest,
    /// Send itself this many interrupts.
    Storm(u64),
    /// Interrupt all other processors, this many times, and wait for each.
    Ipi(u64),
    /// Deny requests to shut down.
    Deny,
    /// Approve requests to shut down.
    Approve,
    /// Only count NMIs, even when hung.
    IgnoreNmi,
    /// Only count presses of the power button.
    IgnoreButton,
}

/// Why a line is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Nothing but blanks.
    Empty,
    /// The first word is no command.
    Unknown,
    /// The command wants a number and got none, or got more than it takes.
    Argument,
}

/// The commands, for people.
pub const HELP: &str = "help info beats reset-beats off exit N reboot crash triple-fault hang spin idle exits N wild ADDRESS \
                        dirty MIB digest storm N ipi N deny approve ignore-nmi ignore-button";

/// Reads a line: words between blanks.
///
/// # Errors
/// [`Mistake`] says what is wrong with it.
pub fn parse(line: &[u8]) -> Result<Command, Mistake> {
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let word = words.next().ok_or(Mistake::Empty)?;
    let argument = words.next();
    if words.next().is_some() {
        return Err(Mistake::Argument);
    }
    build(word, argument)
}

/// Reads the value of `run=`: `COMMAND` or `COMMAND:NUMBER`.
///
/// # Errors
/// As [`parse`].
pub fn parse_run(value: &[u8]) -> Result<Command, Mistake> {
    let mut parts = value.splitn(2, |&byte| byte == b':');
    let word = parts.next().filter(|word| !word.is_empty()).ok_or(Mistake::Empty)?;
    build(word, parts.next())
}

fn build(word: &[u8], argument: Option<&[u8]>) -> Result<Command, Mistake> {
    let number = || argument.and_then(digits::parse).ok_or(Mistake::Argument);
    let command = match word {
        b"exit" => return number().map(Command::Exit),
        b"exits" => return number().map(Command::Exits),
        b"wild" => return number().map(Command::Wild),
        b"dirty" => return number().map(Command::Dirty),
        b"storm" => return number().map(Command::Storm),
        b"ipi" => return number().map(Command::Ipi),
        b"help" => Command::Help,
        b"info" => Command::Info,
        b"beats" => Command::Beats,
        b"reset-beats" => Command::ResetBeats,
        b"off" => Command::Off,
        b"reboot" => Command::Reboot,
        b"crash" => Command::Crash,
        b"triple-fault" => Command::TripleFault,
        b"hang" => Command::Hang,
        b"spin" => Command::Spin,
        b"idle" => Command::Idle,
        b"digest" => Command::Digest,
        b"deny" => Command::Deny,
        b"approve" => Command::Approve,
        b"ignore-nmi" => Command::IgnoreNmi,
        b"ignore-button" => Command::IgnoreButton,
        _ => return Err(Mistake::Unknown),
    };
    if argument.is_some() { Err(Mistake::Argument) } else { Ok(command) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_with_at_most_one_number() {
        assert_eq!(parse(b"beats"), Ok(Command::Beats));
        assert_eq!(parse(b"exit 7"), Ok(Command::Exit(7)));
        assert_eq!(parse(b"exit"), Err(Mistake::Argument));
        assert_eq!(parse(b"  exits\t1000 "), Ok(Command::Exits(1000)));
        assert_eq!(parse(b"wild 0xd0000000"), Ok(Command::Wild(0xd000_0000)));
        assert_eq!(parse(b" \t"), Err(Mistake::Empty));
        assert_eq!(parse(b"beat"), Err(Mistake::Unknown));
        assert_eq!(parse(b"exits"), Err(Mistake::Argument));
        assert_eq!(parse(b"exits many"), Err(Mistake::Argument));
        assert_eq!(parse(b"exits 1 2"), Err(Mistake::Argument));
        assert_eq!(parse(b"off now"), Err(Mistake::Argument));
    }

    #[test]
    fn run_takes_its_number_after_a_colon() {
        assert_eq!(parse_run(b"exits:5"), Ok(Command::Exits(5)));
        assert_eq!(parse_run(b"spin"), Ok(Command::Spin));
        assert_eq!(parse_run(b"exits"), Err(Mistake::Argument));
        assert_eq!(parse_run(b"exits:"), Err(Mistake::Argument));
        assert_eq!(parse_run(b""), Err(Mistake::Empty));
    }

    #[test]
    fn help_names_every_command() {
        let mut named = 0;
        for word in HELP.split(' ').filter(|word| !word.chars().all(char::is_uppercase)) {
            assert_ne!(parse(word.as_bytes()), Err(Mistake::Unknown), "{word}");
            named += 1;
        }
        assert_eq!(named, 22);
    }
}
