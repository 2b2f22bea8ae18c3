//! The guest's side.

use crate::work::{LARGE, MESSAGE, PIECE, SMALL, Work};
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the driver may take to listen.
const PATIENCE: Duration = Duration::from_secs(300);

/// Does what the driver asks for until it hangs up; then this goes on without doing anything, so that the guest
/// and its monitor can be looked at.
///
/// # Errors
/// When the driver is not reached, or a load fails.
pub fn serve(name: &str, address: SocketAddr, disk: &Path) -> Result<()> {
    let mut disk = Disk::open(disk)?;
    let stream = reach(address)?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::with_capacity(PIECE, stream.try_clone()?), stream);
    writeln!(writer, "{name}")?;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            loop {
                std::thread::park();
            }
        }
        perform(Work::parse(&line)?, &mut disk, &mut reader, &mut writer)?;
    }
}

fn reach(address: SocketAddr) -> Result<TcpStream> {
    let begin = Instant::now();
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => return Ok(stream),
            Err(error) if begin.elapsed() > PATIENCE => bail!("{address} does not answer: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn perform(work: Work, disk: &mut Disk, reader: &mut impl Read, writer: &mut impl Write) -> Result<()> {
    match work {
        Work::Random { depth, count } => disk.random(depth, count)?,
        Work::Sequential { count } => disk.sequential(count)?,
        Work::Send { bytes } => {
            let piece = vec![b'x'; PIECE];
            let mut left = bytes;
            while left > 0 {
                let length = left.min(PIECE);
                writer.write_all(piece.get(..length).unwrap_or_default())?;
                left -= length;
            }
            return Ok(());
        }
        Work::Receive { bytes } => {
            let received = std::io::copy(&mut reader.take(bytes as u64), &mut std::io::sink())?;
            ensure!(received == bytes as u64, "the driver hung up");
        }
        Work::Echo { count } => {
            let mut message = [0; MESSAGE];
            for _ in 0..count {
                reader.read_exact(&mut message)?;
                writer.write_all(&message)?;
            }
            return Ok(());
        }
    }
    writer.write_all(b"done\n")?;
    Ok(())
}

/// The disk, read past the guest's page cache.
struct Disk {
    file: File,
    bytes: u64,
    /// Where the next sequential read begins.
    next: u64,
    seed: u64,
}

impl Disk {
    fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path);
        let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
        let bytes = (&file).seek(SeekFrom::End(0))?;
        ensure!(bytes >= LARGE as u64, "{} has only {bytes} bytes", path.display());
        Ok(Self { file, bytes, next: 0, seed: 1 })
    }

    fn random(&mut self, depth: usize, count: usize) -> Result<()> {
        let blocks = self.bytes / SMALL as u64;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..depth)
                .map(|_| {
                    self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let (file, mut state) = (&self.file, self.seed);
                    scope.spawn(move || -> Result<()> {
                        let mut buffer = Aligned::new(SMALL);
                        for _ in 0..count / depth {
                            // Knuth's generator; its upper bits choose the block.
                            state =
                                state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                            file.read_exact_at(buffer.bytes(), (state >> 33) % blocks * SMALL as u64)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(outcome) => outcome,
                Err(_) => bail!("a reader failed"),
            })
        })
    }

    fn sequential(&mut self, count: usize) -> Result<()> {
        let mut buffer = Aligned::new(LARGE);
        for _ in 0..count {
            if self.next + LARGE as u64 > self.bytes {
                self.next = 0;
            }
            self.file.read_exact_at(buffer.bytes(), self.next)?;
            self.next += LARGE as u64;
        }
        Ok(())
    }
}

/// Memory that begins at a page, as direct reads demand.
struct Aligned {
    memory: Vec<u8>,
    begin: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        const PAGE: usize = 4096;
        let memory = vec![0; length + PAGE];
        let begin = memory.as_ptr().align_offset(PAGE);
        Self { memory, begin, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.begin..self.begin + self.length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn every_load_reads_what_it_is_sent_and_answers() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        let mut disk = Disk { file: File::open(&path).unwrap(), bytes: 1 << 20, next: 0, seed: 1 };
        let works = [
            (Work::Random { depth: 3, count: 30 }, 0, "done\n".len()),
            (Work::Sequential { count: 20 }, 0, "done\n".len()),
            (Work::Send { bytes: 100_000 }, 0, 100_000),
            (Work::Receive { bytes: 100_000 }, 100_000, "done\n".len()),
            (Work::Echo { count: 5 }, 5 * MESSAGE, 5 * MESSAGE),
        ];
        for (work, sent, answered) in works {
            let (mut reader, mut writer) = (Cursor::new(vec![b'x'; sent]), Vec::new());
            perform(work, &mut disk, &mut reader, &mut writer).unwrap();
            assert_eq!((reader.position() as usize, writer.len()), (sent, answered), "{work:?}");
        }
        assert_eq!(disk.next, 4 * LARGE as u64, "a disk of eight reads, twenty times read");
        let mut short = Cursor::new(vec![0; 10]);
        assert!(perform(Work::Receive { bytes: 11 }, &mut disk, &mut short, &mut Vec::new()).is_err());
    }
}
