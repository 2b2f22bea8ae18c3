//! The manager killed again and again, at any moment and at every write of its journal, under partitions that
//! run and one that is activated and shut down meanwhile.

use crate::TWO;
use anyhow::{Context, Result, bail, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use end_to_end::trace::{Seen, Side, kill_at_write};
use end_to_end::{host, wait};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The payload's beat, microseconds.
const TICK_US: u64 = 10_000;
/// Rounds of a usual run, and of a full one.
const USUAL: usize = 40;
const FULL: usize = 500;
/// Of so many rounds with a kill, one is done without, to compare with.
const SHARE: usize = 5;

const GAMMA: &str = r#"
[[partition]]
name = "gamma"
processors = { mode = "shared", pool = "default", desired = 1, units = { minimum = 0.1, desired = 0.2, maximum = 1.0 }, sharing = "uncapped", weight = 128 }
memory = { desired = "16MiB" }
boot = "diagnostics"
auto_start = false
"#;

/// When the manager is killed in a round.
#[derive(Clone, Copy, Debug)]
enum Kill {
    Never,
    After(Duration),
    At(usize, Side),
}

struct Campaign {
    frame: Frame,
    /// The partitions that run on, and their processes.
    running: BTreeMap<&'static str, u32>,
    /// Activations and ends of gamma so far.
    activations: u64,
    ends: u64,
}

/// What one round came to.
struct Round {
    /// Largest gap between two beats of alpha, microseconds, and beats missed.
    gap: u64,
    missed: u64,
    beats: u64,
    seen: Option<Seen>,
    took: Duration,
}

pub fn killed() -> Result<()> {
    let full = std::env::var_os("BULKHEAD_FULL").is_some();
    let rounds = if full { FULL } else { USUAL };
    let frame = Frame::up(&format!("{TWO}{GAMMA}"))?;
    let running = BTreeMap::from([("alpha", frame.partition("alpha")?), ("beta", frame.partition("beta")?)]);
    let mut campaign = Campaign { frame, running, activations: 0, ends: 0 };
    let start = Instant::now();
    let mut quiet = Vec::new();
    for _ in 0..rounds / SHARE {
        quiet.push(campaign.round(Kill::Never).context("a round without a kill")?);
    }
    let writes = quiet.iter().filter_map(|round| round.seen).map(|seen| seen.writes).min().unwrap_or(0);
    ensure!(writes > 10, "the journal was seen to be written {writes} times only");
    let usual = quiet.iter().map(|round| round.took).min().unwrap_or_default();

    // Every second round, or as many as there are points, goes through the points in order, evenly.
    let points: Vec<(usize, Side)> = (1..=writes).flat_map(|nth| [(nth, Side::Before), (nth, Side::After)]).collect();
    let steps = if full { points.len().min(rounds) } else { rounds / 2 };
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut killed = Vec::new();
    let mut hit = BTreeSet::new();
    for number in 0..rounds {
        let kill = if number < steps {
            let (nth, side) = points[number * points.len() / steps];
            Kill::At(nth, side)
        } else {
            // xorshift64
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            Kill::After(usual.mul_f64((random % 1000) as f64 / 1000.0))
        };
        let round = campaign.round(kill).with_context(|| format!("round {number}, {kill:?}"))?;
        if let (Kill::At(nth, side), Some(Seen { killed: true, .. })) = (kill, round.seen) {
            hit.insert((nth, side == Side::After));
        }
        killed.push(round);
    }
    let (before, after) = (figures(&quiet), figures(&killed));
    println!(
        "{rounds} rounds in {} s, {} of {} points of the journal hit ({writes} writes in a cycle), {} activations; \
         per round without and with a kill: largest gap {} and {} us in the median, {} and {} us at most; \
         beats missed: {} of {} and {} of {}",
        start.elapsed().as_secs(),
        hit.len(),
        points.len(),
        campaign.activations,
        before.median,
        after.median,
        before.most,
        after.most,
        before.missed,
        before.beats,
        after.missed,
        after.beats,
    );
    ensure!(hit.len() * 10 >= steps * 9, "only {} of {steps} points were hit", hit.len());
    // Were beats lost with the manager, they would be in every round.
    ensure!(after.median <= before.median + TICK_US, "the usual gap grew by more than a tick");
    let share = |figures: &Figures| figures.missed as f64 / figures.beats.max(1) as f64;
    ensure!(share(&after) <= share(&before) + 0.01, "beats are lost: {} of {}", after.missed, after.beats);
    campaign.frame.down()
}

struct Figures {
    median: u64,
    most: u64,
    missed: u64,
    beats: u64,
}

fn figures(rounds: &[Round]) -> Figures {
    let mut gaps: Vec<u64> = rounds.iter().map(|round| round.gap).collect();
    gaps.sort_unstable();
    Figures {
        median: gaps.get(gaps.len() / 2).copied().unwrap_or(0),
        most: gaps.last().copied().unwrap_or(0),
        missed: rounds.iter().map(|round| round.missed).sum(),
        beats: rounds.iter().map(|round| round.beats).sum(),
    }
}

impl Campaign {
    /// Gamma is activated, shut down and activated, the manager killed meanwhile, and everything looked at.
    fn round(&mut self, kill: Kill) -> Result<Round> {
        let mut console = Console::open(&self.frame.lpar, "alpha")?;
        console.type_line("reset-beats")?;
        console.ask("beats", "beats")?;
        drop(console);
        let manager = self.frame.manager()?;
        let (began, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let (seen, took) = std::thread::scope(|scope| {
            let (began, over) = (&began, &over);
            let killer = scope.spawn(move || match kill {
                Kill::After(time) => {
                    // The moment is what is tried: this waits for time.
                    std::thread::sleep(time);
                    host::signal(manager, Signal::KILL).map(|()| None)
                }
                Kill::Never => kill_at_write(manager, "/manager.db-wal", 0, Side::Before, began, over).map(Some),
                Kill::At(nth, side) => kill_at_write(manager, "/manager.db-wal", nth, side, began, over).map(Some),
            });
            if !matches!(kill, Kill::After(_)) {
                wait::until("the trace", || Ok((began.load(Ordering::SeqCst) || killer.is_finished()).then_some(())))?;
            }
            let start = Instant::now();
            let cycled = self.cycle();
            let took = start.elapsed();
            over.store(true, Ordering::SeqCst);
            let seen = match killer.join() {
                Ok(seen) => seen.context("the kill")?,
                Err(_) => bail!("the thread that kills failed"),
            };
            cycled.map(|()| (seen, took))
        })?;
        let killed = seen.map_or(matches!(kill, Kill::After(_)), |seen| seen.killed);
        if killed {
            wait::until("another manager", || Ok((self.frame.manager()? != manager).then_some(())))?;
        }
        wait::until("an answer", || Ok(self.frame.lpar.run("ls")?.expect(0).ok()))?;
        self.consistent()?;
        self.end()?;
        let mut console = Console::open(&self.frame.lpar, "alpha")?;
        let beats = console.ask("beats", "beats")?;
        let field = |name: &str| beats.get(name).copied().with_context(|| format!("no {name} in {beats:?}"));
        let (count, missed) = (field("beats")?, field("missed")?);
        let elapsed = field("elapsed_ms")?;
        ensure!((count + missed + 2) * TICK_US / 1000 >= elapsed, "alpha did not run all of {elapsed} ms: {beats:?}");
        Ok(Round { gap: field("largest_gap_us")?, missed, beats: count + missed, seen, took })
    }

    fn cycle(&mut self) -> Result<()> {
        self.activate()?;
        self.end()?;
        self.activate()
    }

    fn activate(&mut self) -> Result<()> {
        self.frame.lpar.ok("activate gamma")?;
        self.activations += 1;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.frame.lpar.ok("shutdown gamma --immediate")?;
        self.ends += 1;
        Ok(())
    }

    /// What was under way was finished once, nothing is there twice, and nothing is there that should not be.
    fn consistent(&self) -> Result<()> {
        let mut expected = self.running.clone();
        expected.insert("gamma", self.frame.partition("gamma")?);
        for (name, pid) in &expected {
            let row = self.frame.lpar.row(name)?;
            ensure!(row["state"] == "Running" && row["pid"] == *pid && host::runs(*pid), "{row}");
            ensure!(*name == "gamma" || row["incarnation"] == 1, "{row}");
        }
        let names: BTreeSet<String> = expected.keys().map(|&name| name.to_owned()).collect();
        let mut found = String::new();
        wait::until("one process, one socket and its groups for each partition", || {
            let processes = self.frame.partition_processes()?;
            let once: BTreeMap<&str, u32> = processes.iter().map(|(name, pid)| (name.as_str(), *pid)).collect();
            let sockets = self.frame.partition_sockets()?;
            let groups: BTreeSet<String> = host::cgroups_of(&format!("{}.", self.frame.name()))
                .iter()
                .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
                .filter(|leaf| !leaf.starts_with(self.frame.name()))
                .collect();
            found = format!("{processes:?}, {sockets:?}, {groups:?}");
            let right = processes.len() == expected.len() && once == expected && sockets == names;
            Ok((right && (groups == names || groups.is_empty())).then_some(()))
        })
        .with_context(|| found)?;
        self.journal(&expected)?;
        self.events()
    }

    /// The journal is sound, and names the process of each partition as the last that was started.
    fn journal(&self, expected: &BTreeMap<&str, u32>) -> Result<()> {
        let journal = rusqlite::Connection::open(self.frame.directory().join("r/run/manager.db"))?;
        journal.busy_timeout(Duration::from_secs(10))?;
        let sound: String = journal.query_row("PRAGMA quick_check", [], |row| row.get(0))?;
        ensure!(sound == "ok", "{sound}");
        for (name, pid) in expected {
            let mut statement = journal.prepare("SELECT body FROM step WHERE partition = ?1 ORDER BY id")?;
            let steps: Vec<String> = statement.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?;
            let begun = steps.iter().rposition(|step| step == "\"reaped\"").map_or(0, |at| at + 1);
            let spawned: Vec<&String> = steps[begun..].iter().filter(|step| step.contains("\"spawned\"")).collect();
            let right = matches!(spawned[..], [one] if one.contains(&format!("\"pid\":{pid},")));
            ensure!(right, "the journal does not name process {pid} of {name}: {steps:?}");
        }
        Ok(())
    }

    /// Each activation and each end is one event.
    fn events(&self) -> Result<()> {
        let log = rusqlite::Connection::open(self.frame.directory().join("r/state/events.db"))?;
        log.busy_timeout(Duration::from_secs(10))?;
        let count = |code: &str| -> Result<u64> {
            let sql = "SELECT count(*) FROM events WHERE code = ?1 AND record LIKE '%\"gamma\"%'";
            Ok(log.query_row(sql, [code], |row| row.get::<_, i64>(0))?.try_into()?)
        };
        let mut counts = (0, 0);
        wait::until("the events of gamma", || {
            counts = (count("C2000001")?, count("D2000002")?);
            Ok((counts.0 >= self.activations && counts.1 >= self.ends).then_some(()))
        })
        .with_context(|| format!("{counts:?} of {} and {}", self.activations, self.ends))?;
        ensure!(
            counts == (self.activations, self.ends),
            "{} activations and {} ends raised {} and {} events",
            self.activations,
            self.ends,
            counts.0,
            counts.1
        );
        Ok(())
    }
}
