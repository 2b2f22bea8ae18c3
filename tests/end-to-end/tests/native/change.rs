//! A running frame is declared anew: by a changed file, or value by value.

use crate::TWO;
use anyhow::{Context, Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use end_to_end::lpar::Answer;
use end_to_end::{host, wait};
use rustix::process::Signal;
use std::path::{Path, PathBuf};

/// Rounds in which the manager is killed while a value is set.
const ROUNDS: u32 = 12;

/// Changes the text of a frame's file.
fn edit(frame: &Frame, from: &str, to: &str) -> Result<()> {
    let text = std::fs::read_to_string(frame.file())?;
    ensure!(text.contains(from), "no {from:?} in {text}");
    Ok(std::fs::write(frame.file(), text.replacen(from, to, 1))?)
}

fn with_file(frame: &Frame, verb: &str, option: Option<&str>) -> Result<Answer> {
    let file = frame.file();
    let words = [Path::new(verb), &file].into_iter().chain(option.map(Path::new));
    frame.lpar.run_all(words)
}

/// What the host lets a partition have of its processors: the quota as part of the period where there is one, and
/// the weight. None where the host has no such controller.
fn limits(frame: &Frame, name: &str) -> Result<Option<(Option<f64>, u64)>> {
    let detail = frame.lpar.json(&format!("show {name}"))?;
    let groups: Vec<PathBuf> =
        detail["cgroup"].as_array().into_iter().flatten().filter_map(|path| Some(path.as_str()?.into())).collect();
    let read = |file: &str| groups.iter().find_map(|group| std::fs::read_to_string(group.join(file)).ok());
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<f64>().ok());
    let Some(weight) = number(read("cpu.weight").or_else(|| read("cpu.shares"))) else { return Ok(None) };
    let quota = match read("cpu.max") {
        Some(text) => {
            let mut words = text.split_whitespace().map(|word| word.parse::<f64>().ok());
            let (quota, period) = (words.next().flatten(), words.next().flatten());
            quota.zip(period).map(|(quota, period)| quota / period)
        }
        None => {
            let quota = number(read("cpu.cfs_quota_us")).filter(|quota| *quota > 0.0);
            quota.zip(number(read("cpu.cfs_period_us"))).map(|(quota, period)| quota / period)
        }
    };
    Ok(Some((quota, weight as u64)))
}

fn units(frame: &Frame, name: &str) -> Result<f64> {
    frame.lpar.row(name)?["units"].as_f64().context("no units")
}

pub fn applied() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let mut console = Console::open(&frame.lpar, "alpha")?;
    console.until("ready")?;
    console.type_line("reset-beats")?;
    let before = (frame.partition("alpha")?, frame.partition("beta")?);
    let was = limits(&frame, "alpha")?;
    ensure!(with_file(&frame, "diff", Some("--exit-code"))?.expect(0)?.stdout.contains("is as"));

    edit(
        &frame,
        "desired = 0.4, maximum = 1.0 }, sharing = \"uncapped\", weight = 128",
        "desired = 0.3, maximum = 1.0 }, sharing = \"capped\"",
    )?;
    edit(&frame, "[[partition]]\nname = \"beta\"", "[[partition]]\nname = \"beta\"\nexit_device = true")?;
    let third = TWO.split("[[partition]]").nth(2).context("no second partition")?.replace("\"beta\"", "\"aa\"");
    let third = third.replace("desired = 0.4", "desired = 0.2");
    let text = std::fs::read_to_string(frame.file())?;
    std::fs::write(frame.file(), format!("{text}\n[[partition]]{third}"))?;

    let different = with_file(&frame, "diff", Some("--exit-code"))?.expect(1)?;
    let dry = with_file(&frame, "apply", Some("--dry-run"))?.expect(0)?;
    for part in ["alpha", "processors.units.desired", "0.40", "0.30", "processors.sharing", "beta", "exit_device", "aa"]
    {
        ensure!(different.stdout.contains(part) && dry.stdout.contains(part), "no {part:?} in {}", dry.stdout);
    }
    ensure!(frame.lpar.run("show aa")?.expect(1).is_ok() && units(&frame, "alpha")? == 0.4, "nothing has changed");

    let done = with_file(&frame, "apply", None)?.expect(0)?;
    ensure!(done.stdout.contains("at its next activation") && done.stdout.contains("at once"), "{}", done.stdout);
    frame.lpar.wait("aa", "Running")?;
    ensure!((frame.partition("alpha")?, frame.partition("beta")?) == before, "what runs runs on");
    // By names alone it would be the first.
    ensure!(frame.lpar.row("aa")?["id"] == 3 && frame.lpar.row("alpha")?["id"] == 1, "numbers stay");
    ensure!(units(&frame, "alpha")? == 0.3);
    if let (Some((None, _)), Some((now, _))) = (was, limits(&frame, "alpha")?) {
        ensure!(now.is_some_and(|now| (now - 0.3).abs() < 0.001), "the quota is {now:?}");
    }
    let pending = frame.lpar.json("diff")?;
    let waits: Vec<&str> =
        pending["pending"].as_array().into_iter().flatten().filter_map(|one| one["key"].as_str()).collect();
    ensure!(waits == ["exit_device"] && pending["file"].as_array().is_some_and(Vec::is_empty), "{pending}");
    frame.lpar.event("C7000003", "alpha")?;
    let beats = console.ask("beats", "beats")?;
    ensure!(beats["beats"] > 0, "{beats:?}");
    ensure!(with_file(&frame, "apply", None)?.expect(0)?.stdout.contains("nothing is different"));

    // The next activation of beta has what waited.
    frame.lpar.ok("shutdown beta --immediate")?;
    frame.lpar.ok("activate beta")?;
    with_file(&frame, "diff", Some("--exit-code"))?.expect(0)?;
    let mut other = Console::open(&frame.lpar, "beta")?;
    other.until("ready")?;
    other.type_line("exit 7")?;
    frame.lpar.wait("beta", "Not Activated")?;
    ensure!(frame.lpar.row("beta")?["exit_status"] == 7);

    // Who runs cannot be taken out of the file.
    let text = std::fs::read_to_string(frame.file())?;
    let without = text.rsplit_once("[[partition]]").context("no partition")?.0.to_owned();
    std::fs::write(frame.file(), without)?;
    for option in [None, Some("--dry-run")] {
        let refused = with_file(&frame, "apply", option)?.expect(1)?;
        ensure!(refused.stderr.contains("aa") && refused.stderr.contains("lpar shutdown"), "{}", refused.stderr);
    }
    frame.lpar.ok("shutdown aa --immediate")?;
    with_file(&frame, "apply", None)?.expect(0)?;
    ensure!(frame.lpar.run("show aa")?.expect(1).is_ok(), "aa is forgotten");
    // Nor what a frame stands on.
    edit(&frame, "memory_block = \"2MiB\"", "memory_block = \"4MiB\"")?;
    let refused = with_file(&frame, "apply", None)?.expect(1)?;
    ensure!(refused.stderr.contains("memory_block") && refused.stderr.contains("lpar down"), "{}", refused.stderr);
    frame.down()
}

pub fn set() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let before = frame.partition("alpha")?;
    frame.lpar.ok("set alpha processors.units.desired=0.5 processors.weight=64")?;
    ensure!(units(&frame, "alpha")? == 0.5);
    for (values, parts) in [
        ("processors.units.desired=0.9", ["beta has 0.40", "only 0.60"]),
        ("processors.units.desired=0.05", ["0.10 at least", "1.00 at most"]),
        ("processors.units.desired=lots", ["cannot be \"lots\"", "0.5"]),
        ("memory.desired=17MiB", ["16MiB at least", "lpar apply"]),
        ("boot=diagnostics", ["cannot be set", "lpar apply"]),
        ("processors.weight=1 processors.weight=2", ["given twice", "processors.weight"]),
    ] {
        let refused = frame.lpar.run(&format!("set alpha {values}"))?.expect(1)?;
        ensure!(parts.iter().all(|part| refused.stderr.contains(part)), "{values}: {}", refused.stderr);
        ensure!(units(&frame, "alpha")? == 0.5, "{values}: nothing has changed");
    }
    ensure!(frame.lpar.run("set nobody processors.weight=1")?.expect(1)?.stderr.contains("nobody"));
    // What was set outlives whoever did it.
    for daemon in [Frame::manager, Frame::service_processor] {
        let pid = daemon(&frame)?;
        host::signal(pid, Signal::KILL)?;
        wait::until("a replacement", || Ok(daemon(&frame).is_ok_and(|other| other != pid).then_some(())))?;
        let show = frame.lpar.json("show alpha")?;
        ensure!(show["resources"]["units"]["declared"]["desired"] == 0.5, "{show}");
        ensure!(show["resources"]["units"]["assigned"] == 0.5, "{show}");
    }
    ensure!(frame.partition("alpha")? == before, "what runs runs on");
    // The file is as it was, and says otherwise.
    let answer = with_file(&frame, "diff", Some("--exit-code"))?.expect(1)?;
    ensure!(answer.stdout.contains("0.50") && answer.stdout.contains("lpar apply"), "{}", answer.stdout);
    with_file(&frame, "apply", None)?.expect(0)?;
    ensure!(units(&frame, "alpha")? == 0.4);
    frame.down()
}

pub fn killed() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let before = frame.partition("alpha")?;
    for round in 0..ROUNDS {
        let wanted = if round % 2 == 0 { 0.3 } else { 0.5 };
        let manager = frame.manager()?;
        let order = format!("set alpha processors.units.desired={wanted}");
        let answer = std::thread::scope(|scope| {
            let setting = scope.spawn(|| frame.lpar.run(&order));
            // At another moment in each round.
            std::thread::sleep(std::time::Duration::from_micros(u64::from(round) * 1500));
            host::signal(manager, Signal::KILL)?;
            setting.join().map_err(|_| anyhow::anyhow!("the command panicked"))?
        })?;
        answer.expect(0)?;
        wait::until("a replacement", || Ok(frame.manager().is_ok_and(|other| other != manager).then_some(())))?;
        let show = frame.lpar.json("show alpha")?;
        let resource = &show["resources"]["units"];
        ensure!(
            resource["declared"]["desired"] == wanted && resource["assigned"] == wanted,
            "round {round}: {resource}"
        );
    }
    // Where there are weights, they are those of one who had this from the beginning.
    let after = limits(&frame, "alpha")?;
    ensure!(frame.partition("alpha")? == before, "what runs runs on");
    frame.down()?;
    let fresh = Frame::up(&TWO.replacen("desired = 0.4", "desired = 0.5", 1))?;
    ensure!(limits(&fresh, "alpha")? == after, "{after:?}");
    fresh.down()
}
