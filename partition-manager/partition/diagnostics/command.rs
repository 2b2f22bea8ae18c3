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
    /// Measure how late this many beats come.
    Lateness(u64),
    /// Deny requests to shut down.
    Deny,
    /// Approve requests to shut down.
    Approve,
    /// Name the virtio devices.
    Devices,
    /// Reset the device in this slot.
    Reset(u64),
    /// Ask the entropy device in this slot for bytes.
    Random(u64),
    /// Do this errand of the disk in this slot, at this sector.
    Disk(Errand, u64, u64),
    /// Make requests of the device in this slot, this many, at full speed.
    Requests(u64, u64),
    /// Do this to the device in this slot.
    Misdrive(u64, Misdeed),
    /// Send a frame with this number from the network adapter in this slot.
    Send(u64, u64),
    /// The same from an address that is not the adapter's.
    Forge(u64, u64),
    /// Receive such a frame.
    Receive(u64),
    /// Take a stream at this port of the socket device in this slot, and send back what comes.
    Listen(u64, u64),
    /// The same with a stream to this port of the host.
    Call(u64, u64),
    /// Write so many lines to the terminal of the console device in this slot.
    Say(u64, u64),
    /// Send back the next line that is typed there.
    Echo(u64),
    /// Arm the watchdog with this time, milliseconds, and reload it at each beat; 0 disarms it.
    Watchdog(u64),
    /// Only count NMIs, even when hung.
    IgnoreNmi,
    /// Only count presses of the power button.
    IgnoreButton,
}

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Read 4 KiB.
    Read,
    /// Write 4 KiB that its sector's number makes.
    Write,
    /// Put down what was written.
    Flush,
    /// Forget 4 KiB.
    Discard,
    /// Write 4 KiB of zeros.
    Zero,
}

/// What no driver may do (virtio 1.2, section 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdeed {
    /// A chain that comes back to its beginning.
    Loop,
    /// A chain that begins beyond the table.
    Index,
    /// A chain that goes on beyond the table.
    Next,
    /// Buffers where there is no memory.
    Address,
    /// Buffers of 4 GiB.
    Length,
    /// More chains at once than there are descriptors.
    Flood,
    /// An indirect table that is no whole number of descriptors.
    Indirect,
    /// Rings where there is no memory.
    Rings,
    /// A start without an agreement on features.
    Blind,
    /// A thousand random tables.
    Noise,
}

impl Misdeed {
    /// All, by name.
    pub const ALL: [(&'static str, Self); 10] = [
        ("loop", Self::Loop),
        ("index", Self::Index),
        ("next", Self::Next),
        ("address", Self::Address),
        ("length", Self::Length),
        ("flood", Self::Flood),
        ("indirect", Self::Indirect),
        ("rings", Self::Rings),
        ("blind", Self::Blind),
        ("noise", Self::Noise),
    ];

    fn named(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| name.as_bytes() == word).map(|(_, misdeed)| misdeed)
    }
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
                        dirty MIB digest storm N ipi N lateness N deny approve ignore-nmi ignore-button devices reset SLOT random SLOT \
                        disk-read SLOT SECTOR disk-write SLOT SECTOR disk-flush SLOT disk-discard SLOT SECTOR \
                        disk-zero SLOT SECTOR requests SLOT N misdrive SLOT MISDEED net-send SLOT N \
                        net-forge SLOT N net-receive SLOT vsock-listen SLOT PORT vsock-call SLOT PORT terminal-say SLOT N \
                        terminal-echo SLOT watchdog MS";

/// Reads a line: words between blanks.
///
/// # Errors
/// [`Mistake`] says what is wrong with it.
pub fn parse(line: &[u8]) -> Result<Command, Mistake> {
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let word = words.next().ok_or(Mistake::Empty)?;
    collect(word, words)
}

/// Reads the value of `run=`: a command with colons in place of blanks.
///
/// # Errors
/// As [`parse`].
pub fn parse_run(value: &[u8]) -> Result<Command, Mistake> {
    let mut parts = value.split(|&byte| byte == b':');
    let word = parts.next().filter(|word| !word.is_empty()).ok_or(Mistake::Empty)?;
    collect(word, parts)
}

fn collect<'a>(word: &[u8], mut arguments: impl Iterator<Item = &'a [u8]>) -> Result<Command, Mistake> {
    let (first, second) = (arguments.next(), arguments.next());
    if arguments.next().is_some() {
        return Err(Mistake::Argument);
    }
    build(word, first, second)
}

fn build(word: &[u8], argument: Option<&[u8]>, second: Option<&[u8]>) -> Result<Command, Mistake> {
    let number = || argument.and_then(digits::parse).ok_or(Mistake::Argument);
    let other = || second.and_then(digits::parse).ok_or(Mistake::Argument);
    let disk = |errand| Ok(Command::Disk(errand, number()?, other()?));
    match word {
        b"disk-read" => return disk(Errand::Read),
        b"disk-write" => return disk(Errand::Write),
        b"disk-discard" => return disk(Errand::Discard),
        b"disk-zero" => return disk(Errand::Zero),
        b"requests" => return Ok(Command::Requests(number()?, other()?)),
        b"net-send" => return Ok(Command::Send(number()?, other()?)),
        b"net-forge" => return Ok(Command::Forge(number()?, other()?)),
        b"vsock-listen" => return Ok(Command::Listen(number()?, other()?)),
        b"vsock-call" => return Ok(Command::Call(number()?, other()?)),
        b"terminal-say" => return Ok(Command::Say(number()?, other()?)),
        b"misdrive" => {
            let misdeed = second.and_then(Misdeed::named).ok_or(Mistake::Argument)?;
            return Ok(Command::Misdrive(number()?, misdeed));
        }
        // Everything else takes one argument at most; what is no command is said to be none.
        _ if second.is_some() && !matches!(build(word, argument, None), Err(Mistake::Unknown)) => {
            return Err(Mistake::Argument);
        }
        _ => {}
    }
    let command = match word {
        b"reset" => return number().map(Command::Reset),
        b"random" => return number().map(Command::Random),
        b"net-receive" => return number().map(Command::Receive),
        b"terminal-echo" => return number().map(Command::Echo),
        b"disk-flush" => return Ok(Command::Disk(Errand::Flush, number()?, 0)),
        b"exit" => return number().map(Command::Exit),
        b"exits" => return number().map(Command::Exits),
        b"wild" => return number().map(Command::Wild),
        b"dirty" => return number().map(Command::Dirty),
        b"storm" => return number().map(Command::Storm),
        b"ipi" => return number().map(Command::Ipi),
        b"lateness" => return number().map(Command::Lateness),
        b"watchdog" => return number().map(Command::Watchdog),
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
        b"devices" => Command::Devices,
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
    fn lines_are_commands_with_their_numbers() {
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
        assert_eq!(parse(b"disk-write 8 100"), Ok(Command::Disk(Errand::Write, 8, 100)));
        assert_eq!(parse(b"disk-write 8"), Err(Mistake::Argument));
        assert_eq!(parse(b"disk-flush 8 1"), Err(Mistake::Argument));
        assert_eq!(parse(b"nonsense 8 1"), Err(Mistake::Unknown));
        for (name, misdeed) in Misdeed::ALL {
            assert_eq!(parse(format!("misdrive 8 {name}").as_bytes()), Ok(Command::Misdrive(8, misdeed)));
        }
        assert_eq!(parse(b"misdrive 8 kindly"), Err(Mistake::Argument));
    }

    #[test]
    fn run_takes_its_number_after_a_colon() {
        assert_eq!(parse_run(b"exits:5"), Ok(Command::Exits(5)));
        assert_eq!(parse_run(b"requests:8:100"), Ok(Command::Requests(8, 100)));
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
        assert_eq!(named, 41);
    }
}
