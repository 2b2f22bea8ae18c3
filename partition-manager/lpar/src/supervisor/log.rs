//! Where the daemons' messages go: into a file that does not grow without end.

use crate::failure::say;
use frame::root::Root;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Largest log; what is older is in the file beside it, which is no larger.
pub const LARGEST: u64 = 1 << 20;
/// How much of a log is shown as a reason, bytes.
const SHOWN: u64 = 4096;

/// Where messages go.
#[derive(Debug)]
pub enum Log {
    /// Into this file.
    File(PathBuf, File),
    /// Into this file, and it is what standard error of the supervisor is.
    Own(PathBuf, File),
}

impl Log {
    /// The log file of the frame at `root`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn file(root: &Root) -> io::Result<Self> {
        Ok(Self::File(root.log(), open(root)?))
    }

    /// The same, for a supervisor whose standard error it is.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn own(root: &Root) -> io::Result<Self> {
        Ok(Self::Own(root.log(), open(root)?))
    }

    /// Lets a command write here.
    pub fn redirect(&self, command: &mut Command) {
        let (Self::File(_, file) | Self::Own(_, file)) = self;
        if let (Ok(output), Ok(error)) = (file.try_clone(), file.try_clone()) {
            command.stdout(output).stderr(error);
        }
    }

    /// Moves what is there aside when it has become too much.
    pub fn bound(&self) {
        let (Self::File(path, file) | Self::Own(path, file)) = self;
        if file.metadata().is_ok_and(|metadata| metadata.len() > LARGEST) {
            let mut aside = path.as_os_str().to_owned();
            aside.push(".1");
            // Daemons that write between the two steps lose a line of their log, no more.
            let _ = copy_end(file, Path::new(&aside));
            if let Err(error) = file.set_len(0) {
                say!("error: the log {} cannot be emptied: {error}", path.display());
            }
        }
    }

    /// The end of the log, to follow a sentence that says what failed.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            // The reader reads this there.
            Self::Own(..) => String::new(),
            Self::File(path, _) => match tail(path) {
                text if text.is_empty() => String::new(),
                text => format!("; its log says:\n{text}"),
            },
        }
    }
}

/// Copies the end of a log, as much as a log may have: whoever wrote faster than it was bounded fills no disk twice.
fn copy_end(file: &File, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut at = file.metadata()?.len().saturating_sub(LARGEST);
    let mut copy = File::create(to)?;
    let mut bytes = vec![0; 64 << 10];
    let mut left = LARGEST;
    while left > 0 {
        let most = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = file.read_at(&mut bytes[..most], at)?;
        if count == 0 {
            break;
        }
        copy.write_all(&bytes[..count])?;
        (at, left) = (at + count as u64, left - count as u64);
    }
    Ok(())
}

/// The log file of the frame at `root`, to append to and to read. Whoever has it open appends, so that it can
/// be emptied under them.
///
/// # Errors
/// When it cannot be opened.
pub fn open(root: &Root) -> io::Result<File> {
    File::options().create(true).append(true).read(true).open(root.log())
}

/// The last lines of a log, fit to be shown; empty when there is none.
#[must_use]
pub fn tail(path: &Path) -> String {
    File::open(path).map(tail_of).unwrap_or_default()
}

/// The last lines of an open log.
#[must_use]
pub fn tail_of(mut file: File) -> String {
    let mut read = || -> io::Result<String> {
        let length = file.metadata()?.len();
        let start = length.saturating_sub(SHOWN);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        (&mut file).take(SHOWN).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // The first line is cut unless the whole file is shown.
        Ok(if start > 0 { text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default() } else { text })
    };
    let text = read().unwrap_or_default();
    text.trim_end().lines().map(|line| format!("  {}", crate::show::plain(line))).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_under_its_writers() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::under(directory.path());
        std::fs::create_dir_all(&root.run).unwrap();
        let log = Log::file(&root).unwrap();
        let Log::File(path, file) = &log else { panic!() };
        let mut writer = file.try_clone().unwrap();
        for number in 0..3 {
            writer.write_all(&vec![b'x'; LARGEST as usize + 1]).unwrap();
            writeln!(writer, "\nline {number}").unwrap();
            log.bound();
            assert_eq!(std::fs::metadata(path).unwrap().len(), 0);
        }
        writer.write_all(&vec![b'y'; 3 * LARGEST as usize]).unwrap();
        writeln!(writer, "\nline 2").unwrap();
        log.bound();
        assert_eq!(std::fs::metadata(path.with_extension("log.1")).unwrap().len(), LARGEST);
        writeln!(writer, "last\x1b[2J").unwrap();
        assert_eq!(tail(path), "  last?[2J");
        assert!(tail(&path.with_extension("log.1")).ends_with("line 2"));
        assert_eq!(std::fs::read_dir(&root.run).unwrap().count(), 2);
        assert_eq!(tail(Path::new("/nowhere")), "");
    }
}
