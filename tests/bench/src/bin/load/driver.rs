//! The side that asks and takes the time.

use crate::work::{MESSAGE, PIECE, Work};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long one read or write may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// The rates of one guest at one load.
#[derive(Debug, serde::Serialize)]
pub struct Rates {
    /// What it did.
    load: String,
    /// Of what the rates are.
    unit: &'static str,
    /// Whose they are.
    subject: String,
    /// Whether these are the second ones of the first guest.
    again: bool,
    /// One a round.
    rates: Vec<f64>,
}

/// Has every guest do every load in `rounds` rounds, in turns; the first guest takes two turns in each.
///
/// # Errors
/// When a guest does not come, or fails.
pub fn drive(address: SocketAddr, names: &[String], rounds: usize) -> Result<Vec<Rates>> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?;
    let mut agents: Vec<(usize, Agent)> = Vec::new();
    while agents.len() < names.len() {
        let agent = Agent::greet(listener.accept()?.0)?;
        let place = names.iter().position(|name| *name == agent.name);
        let place = place.with_context(|| format!("nobody waits for {:?}", agent.name))?;
        ensure!(agents.iter().all(|(taken, _)| *taken != place), "{} came twice", agent.name);
        eprintln!("{} is there", agent.name);
        agents.push((place, agent));
    }
    agents.sort_by_key(|(place, _)| *place);
    // Its second turn is as far from its first as can be: neither finds warmer caches than the others do.
    let mut turns: Vec<(usize, bool)> = (0..agents.len()).map(|place| (place, false)).collect();
    turns.insert(agents.len().div_ceil(2), (0, true));
    let mut all = Vec::new();
    for work in Work::ALL {
        let (amount, unit) = work.amount();
        let subject = |&(place, again): &(usize, bool)| {
            let subject = names.get(place).cloned().unwrap_or_default();
            Rates { load: work.name(), unit, subject, again, rates: vec![] }
        };
        let mut rates: Vec<Rates> = turns.iter().map(subject).collect();
        for round in 0..=rounds {
            for turn in 0..turns.len() {
                let turn = (round + turn) % turns.len();
                let agent = turns.get(turn).and_then(|(place, _)| agents.get_mut(*place)).context("no such turn")?;
                let took = agent.1.perform(work).with_context(|| format!("{}, {}", agent.1.name, work.name()))?;
                if let Some(rates) = rates.get_mut(turn).filter(|_| round > 0) {
                    rates.rates.push(amount / took.as_secs_f64());
                }
            }
        }
        all.extend(rates);
    }
    Ok(all)
}

struct Agent {
    name: String,
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Agent {
    fn greet(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let mut agent = Self { name: String::new(), reader: BufReader::new(stream.try_clone()?), writer: stream };
        agent.name = agent.line()?;
        Ok(agent)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        // An agent of ours says short lines.
        ensure!((&mut self.reader).take(256).read_line(&mut line)? > 0, "it hung up");
        Ok(line.trim_end().to_owned())
    }

    fn perform(&mut self, work: Work) -> Result<Duration> {
        let begin = Instant::now();
        self.writer.write_all(work.line().as_bytes())?;
        match work {
            Work::Random { .. } | Work::Sequential { .. } => self.done()?,
            Work::Send { bytes } => {
                let got = std::io::copy(&mut (&mut self.reader).take(bytes as u64), &mut std::io::sink())?;
                ensure!(got == bytes as u64, "it hung up");
            }
            Work::Receive { bytes } => {
                let piece = vec![b'x'; PIECE];
                let mut left = bytes;
                while left > 0 {
                    let length = left.min(PIECE);
                    self.writer.write_all(piece.get(..length).unwrap_or_default())?;
                    left -= length;
                }
                self.done()?;
            }
            Work::Echo { count } => {
                let mut message = [b'x'; MESSAGE];
                for _ in 0..count {
                    self.writer.write_all(&message)?;
                    self.reader.read_exact(&mut message)?;
                }
            }
        }
        Ok(begin.elapsed())
    }

    fn done(&mut self) -> Result<()> {
        let line = self.line()?;
        ensure!(line == "done", "it says {line:?}");
        Ok(())
    }
}
