//! The README's first command, and the verbs of its tour.

use anyhow::{Context, Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use end_to_end::host;
use end_to_end::wait;
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

fn demo() -> Result<Frame> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/demo.toml");
    let text = std::fs::read_to_string(file).with_context(|| file.to_owned())?;
    ensure!(text.contains("name = \"demo\""), "configs/demo.toml names its frame otherwise");
    Frame::new(&text.replacen("name = \"demo\"", "name = \"@NAME@\"", 1))
}

pub fn ctrl_c() -> Result<()> {
    let frame = demo()?;
    let file = frame.file();
    let mut up = frame
        .lpar
        .command([std::path::Path::new("up"), &file])?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(up.stdout.take().context("no output")?).lines();
    let mut running = 0;
    let mut seen = String::new();
    for line in lines {
        let line = line?;
        ensure!(!line.contains('\u{1b}'), "a pipe gets no escape sequences: {line:?}");
        running += usize::from(line.contains("Running"));
        seen = seen + &line + "\n";
        if running >= 2 {
            break;
        }
    }
    ensure!(running >= 2, "two partitions run: {seen}");
    for name in ["alpha", "beta"] {
        frame.lpar.wait(name, "Running")?;
    }
    let partition = frame.partition("alpha")?;
    host::signal(up.id(), Signal::INT)?;
    let status = wait::until("the end of lpar up", || Ok(up.try_wait()?))?;
    ensure!(status.code() == Some(0), "lpar up ended with {status}");
    ensure!(!host::runs(partition), "the partition still runs");
    frame.nothing_left()
}

pub fn verbs() -> Result<()> {
    let frame = demo()?;
    let file = frame.file();
    let plan = frame.lpar.run_all(["plan".as_ref(), file.as_os_str(), "--json".as_ref()])?.expect(0)?.json()?;
    ensure!(plan["partitions"].as_array().is_some_and(|all| all.len() == 2), "{plan}");
    frame.lpar.run_all(["check".as_ref(), file.as_os_str()])?.expect(0)?;
    frame.lpar.run_all(["up".as_ref(), file.as_os_str(), "--detach".as_ref()])?.expect(0)?;

    let listed = frame.lpar.ok("ls -F name,state")?.stdout;
    ensure!(listed == "alpha,Running\nbeta,Running\n", "{listed:?}");
    let table = frame.lpar.ok("ls")?.stdout;
    ensure!(table.contains("alpha") && table.contains("Running"), "{table}");
    let shown = frame.lpar.json("show alpha")?;
    let memory = &shown["resources"]["memory"];
    ensure!(memory["assigned"].as_u64().is_some() || memory["assigned"].is_object(), "{shown}");

    let mut console = Console::open(&frame.lpar, "alpha")?;
    console.until("diagnostics")?;
    let beats = console.ask("beats", "beats")?;
    ensure!(beats.get("beats").is_some_and(|&beats| beats > 0), "{beats:?}");
    drop(console);

    let stat = frame.lpar.json("stat alpha")?;
    let stat = if stat.is_array() { stat[0].clone() } else { stat };
    let exits = &stat["processors"][0]["exits"];
    ensure!(exits["io_out"].as_u64().is_some_and(|count| count > 0), "{stat}");

    let spent = &stat["processors"][0]["exit_time"];
    ensure!(spent["io_out"].as_u64().is_some_and(|time| time > 0), "{stat}");

    let doctor = frame.lpar.ok("doctor")?.stdout;
    ensure!(doctor.contains("KVM"), "{doctor}");
    let events = frame.lpar.events()?;
    let running = events.iter().filter(|event| event["code"] == "C2000001").count();
    ensure!(running == 2, "each partition said once that it runs: {events:?}");
    frame.lpar.ok("shutdown alpha")?;
    ensure!(frame.lpar.row("alpha")?["state"] == "Not Activated");
    ensure!(frame.lpar.row("beta")?["state"] == "Running");
    frame.lpar.ok("down")?;
    frame.nothing_left()
}

pub fn terminal() -> Result<()> {
    let frame = demo()?;
    let lpar = frame.lpar.command(["up"])?.get_program().to_string_lossy().into_owned();
    let root = frame.directory().join("r");
    // script(1) gives the command a terminal and writes down what it shows.
    let shown = frame.directory().join("shown");
    let run = format!("stty rows 24 cols 100; {lpar} --root {} up {}", root.display(), frame.file().display());
    let mut terminal = std::process::Command::new("script")
        .args(["-q", "-f", "-c", &run])
        .arg(&shown)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    for name in ["alpha", "beta"] {
        wait::until("the frame's answer", || Ok(frame.lpar.run("ls")?.expect(0).ok()))?;
        frame.lpar.wait(name, "Running")?;
    }
    wait::until("a live view", || {
        let text = String::from_utf8_lossy(&std::fs::read(&shown).unwrap_or_default()).into_owned();
        Ok((text.contains("\u{1b}[") && text.contains("alpha") && text.contains("Running")).then_some(()))
    })?;
    // Ctrl-C typed at the terminal.
    use std::io::Write;
    let mut keys = terminal.stdin.take().context("no keyboard")?;
    keys.write_all(b"\x03")?;
    keys.flush()?;
    wait::until("the end of lpar up", || Ok(terminal.try_wait()?))?;
    frame.nothing_left()
}
