//! Devices, driven by the payload through their real queues.

use anyhow::{Context, Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use end_to_end::wait;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of an image.
const IMAGE: usize = 1 << 20;
/// Bytes that the payload reads or writes with one request.
const TRANSFER: usize = 4096;
/// What is in the images to begin with.
const FILL: u8 = 0x5a;

/// Two partitions, each with a disk and a source of random numbers; the first has a disk that it may only read.
const DISKS: &str = r#"
[frame]
name = "@NAME@"
memory_block = "2MiB"
reserved = { cpus = 0, memory = "64MiB" }

[[pool]]
name = "default"
cpus = 1

[defaults]
processors = { mode = "shared", pool = "default", desired = 1, units = { minimum = 0.1, desired = 0.4, maximum = 1.0 }, sharing = "uncapped" }
memory = { desired = "16MiB" }
boot = "diagnostics"
entropy = true

[[partition]]
name = "alpha"
[[partition.disk]]
name = "own"
path = "own.img"
slot = 8
[[partition.disk]]
name = "fixed"
path = "fixed.img"
read_only = true
slot = 9

[[partition]]
name = "beta"
[[partition.disk]]
name = "other"
path = "other.img"
slot = 8
"#;

fn up() -> Result<Frame> {
    up_as(DISKS)
}

fn up_as(text: &str) -> Result<Frame> {
    let frame = Frame::new(text)?;
    for image in ["own.img", "fixed.img", "other.img"] {
        std::fs::write(frame.directory().join(image), vec![FILL; IMAGE])?;
    }
    frame.lpar.run_all([Path::new("up"), &frame.file(), Path::new("--detach")])?.expect(0)?;
    Ok(frame)
}

fn console(frame: &Frame, partition: &str) -> Result<Console> {
    Console::open(&frame.lpar, partition)
}

/// The slot of the entropy device, which takes the lowest.
const ENTROPY: u64 = 1;

/// What the payload writes to a disk at a sector: the same words as its `devices.rs`.
fn pattern(sector: u64) -> Vec<u8> {
    let words = (0..TRANSFER as u64).step_by(8);
    words.flat_map(|at| ((sector + at / 512).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at).to_le_bytes()).collect()
}

fn at(image: &[u8], sector: usize) -> &[u8] {
    image.get(sector * 512..sector * 512 + TRANSFER).unwrap_or_default()
}

fn field(fields: &BTreeMap<String, u64>, name: &str) -> Result<u64> {
    fields.get(name).copied().with_context(|| format!("no {name} in {fields:?}"))
}

fn disk(console: &mut Console, command: &str) -> Result<u64> {
    field(&console.ask(command, "disk status")?, "status")
}

/// The rows of `lpar interrupts` of one device.
fn sources(frame: &Frame, partition: &str, device: &str) -> Result<Vec<Value>> {
    let rows = frame.lpar.json(&format!("interrupts {partition}"))?;
    let rows = rows.as_array().context("interrupts are no array")?;
    Ok(rows.iter().filter(|row| row["device"] == device).cloned().collect())
}

fn delivered(frame: &Frame, partition: &str, device: &str) -> Result<u64> {
    Ok(sources(frame, partition, device)?.iter().filter_map(|row| row["delivered"].as_u64()).sum())
}

/// What a guest does to its disks is what the host finds in the images, and nothing else is.
pub fn written() -> Result<()> {
    let frame = up()?;
    let mut alpha = console(&frame, "alpha")?;
    let found = alpha.ask("devices", "devices")?;
    ensure!(field(&found, "devices")? == 3, "{found:?}");
    ensure!(disk(&mut alpha, "disk-write 8 0")? == 0);
    ensure!(disk(&mut alpha, "disk-write 8 64")? == 0);
    ensure!(disk(&mut alpha, "disk-zero 8 128")? == 0);
    ensure!(disk(&mut alpha, "disk-discard 8 256")? == 0);
    ensure!(disk(&mut alpha, "disk-flush 8")? == 0);
    // What cannot be written says so, and so does what is not there; neither is a fault of the driver's.
    ensure!(disk(&mut alpha, "disk-write 9 0")? == 1);
    ensure!(disk(&mut alpha, "disk-read 9 0")? == 0);
    ensure!(disk(&mut alpha, &format!("disk-read 8 {}", IMAGE / 512))? == 1);
    let own = std::fs::read(frame.directory().join("own.img"))?;
    ensure!(own.len() == IMAGE, "the image has {} bytes now", own.len());
    ensure!(at(&own, 0) == pattern(0) && at(&own, 64) == pattern(64), "the image is not what was written");
    ensure!(at(&own, 128).iter().all(|&byte| byte == 0), "zeros were not written");
    ensure!(at(&own, 256).iter().all(|&byte| byte == 0), "what was discarded is still there");
    let touched = [0..8, 64..72, 128..136, 256..264];
    let untouched = (0..IMAGE / 512).filter(|sector| !touched.iter().any(|range| range.contains(sector)));
    for sector in untouched {
        ensure!(own[sector * 512..][..512].iter().all(|&byte| byte == FILL), "sector {sector} was changed");
    }
    for image in ["fixed.img", "other.img"] {
        ensure!(std::fs::read(frame.directory().join(image))? == [FILL; IMAGE], "{image} was changed");
    }
    ensure!(field(&alpha.ask(&format!("random {ENTROPY}"), "bytes")?, "bytes")? == 64);
    frame.down()
}

/// Requests that are made one by one.
const SINGLE: u64 = 60;

/// Makes requests one by one, each after the interrupt of the one before was taken; gives how many were taken.
fn singly(console: &mut Console, slot: u64) -> Result<u64> {
    (0..SINGLE).try_fold(0, |taken, _| {
        Ok(taken + field(&console.ask(&format!("requests {slot} 1"), "requests")?, "interrupts")?)
    })
}

/// Each interrupt that the guest took is one that its source delivered.
pub fn counted() -> Result<()> {
    let frame = up()?;
    let mut alpha = console(&frame, "alpha")?;
    for (slot, device, count) in [(8, "own", 500), (ENTROPY, "entropy", 300)] {
        ensure!(singly(&mut alpha, slot)? == SINGLE, "an interrupt was not taken, or twice");
        ensure!(delivered(&frame, "alpha", device)? == SINGLE, "{:?}", sources(&frame, "alpha", device)?);
        // In a row, one may come before the processor has taken the one before it, and they are one to its APIC.
        let answer = alpha.ask(&format!("requests {slot} {count}"), "requests")?;
        let taken = field(&answer, "interrupts")?;
        ensure!(field(&answer, "requests")? == count && (1..=count).contains(&taken), "{answer:?}");
        ensure!(delivered(&frame, "alpha", device)? == SINGLE + count, "{:?}", sources(&frame, "alpha", device)?);
    }
    let rows = sources(&frame, "alpha", "own")?;
    ensure!(rows[0]["state"] == "enabled" && rows[0]["processor"] == 0 && rows[0]["interrupt"] == 0x78, "{rows:?}");
    for row in sources(&frame, "beta", "other")? {
        ensure!(row["delivered"] == 0 && row["state"] == "masked", "{row}");
    }
    frame.down()
}

/// Interrupts are timed where their acknowledgement is seen: each one by local APICs in user space; with KVM's, only those
/// of drivers with event indices, which the payload's are not.
pub fn timed() -> Result<()> {
    for (mode, every) in [("emulated", true), ("kernel", false)] {
        let frame = up_as(&DISKS.replace("[[partition]]", &format!("[[partition]]\ninterrupts = \"{mode}\"")))?;
        let mut alpha = console(&frame, "alpha")?;
        ensure!(singly(&mut alpha, 8)? == SINGLE, "an interrupt was not taken, or twice");
        let row = sources(&frame, "alpha", "own")?.into_iter().next().context("no source of the disk")?;
        let counts = row["latency"].as_array().context("no histogram")?;
        let sum: u64 = counts.iter().filter_map(Value::as_u64).sum();
        let wanted = if every { SINGLE } else { 0 };
        ensure!(row["delivered"] == SINGLE && row["timed"] == wanted && sum == wanted, "{mode}: {row}");
        ensure!(row["latency_p99"].is_u64() == every && row["latency_median"].is_u64() == every, "{mode}: {row}");
        frame.down()?;
    }
    Ok(())
}

/// A driver that misbehaves freezes its own device, until its reset; the neighbours of both never notice.
pub fn frozen() -> Result<()> {
    let frame = up()?;
    let mut alpha = console(&frame, "alpha")?;
    let mut beta = console(&frame, "beta")?;
    let before = beta.ask("beats", "beats")?;
    // Five on each device: the sixth stays.
    let on_disk = ["loop", "index", "next", "address", "flood"];
    let on_entropy = ["length", "indirect", "rings", "blind", "noise"];
    for (slot, device, misdeeds) in [(8, "own", on_disk), (ENTROPY, "entropy", on_entropy)] {
        for (done, misdeed) in misdeeds.iter().enumerate() {
            let answer = alpha.ask(&format!("misdrive {slot} {misdeed}"), "frozen")?;
            // Some devices pass over lengths that they do not need.
            let harmless = *misdeed == "length" && field(&answer, "frozen")? == 0;
            ensure!(harmless || field(&answer, "frozen")? == 1, "{misdeed} did not freeze {device}: {answer:?}");
            if !harmless {
                wait::until("the freeze in the table", || {
                    let rows = sources(&frame, "alpha", device)?;
                    Ok((rows[0]["state"] == "frozen").then_some(()))
                })?;
            }
            // Its neighbours work meanwhile, in this partition and in the other.
            ensure!(disk(&mut alpha, "disk-read 9 0")? == 0, "{misdeed}: the other disk");
            ensure!(disk(&mut beta, "disk-write 8 0")? == 0, "{misdeed}: the other partition's disk");
            let answer = alpha.ask(&format!("reset {slot}"), "status")?;
            ensure!(field(&answer, "status")? == 15, "{misdeed}, freeze {}: {answer:?}", done + 1);
        }
    }
    ensure!(disk(&mut alpha, "disk-read 8 0")? == 0, "the disk after five freezes");
    let freezes = frame.lpar.events()?.into_iter().filter(|event| event["code"] == "B2000007");
    let texts: Vec<String> = freezes.map(|event| event["text"].to_string()).collect();
    ensure!(texts.iter().all(|text| text.contains("alpha")), "{texts:?}");
    let own = texts.iter().filter(|text| text.contains("device own")).count();
    ensure!(own == on_disk.len(), "five freezes are five events: {texts:?}");
    // The sixth within the hour.
    ensure!(field(&alpha.ask("misdrive 8 loop", "frozen")?, "frozen")? == 1);
    frame.lpar.event("B2000008", "alpha")?;
    alpha.past_history()?;
    alpha.type_line("reset 8")?;
    alpha.until("refused: the device")?;
    ensure!(disk(&mut alpha, "disk-read 9 0")? == 0);
    let after = beta.ask("beats", "beats")?;
    ensure!(field(&after, "beats")? > field(&before, "beats")?, "beta does not beat");
    for name in ["alpha", "beta"] {
        let row = frame.lpar.row(name)?;
        ensure!(row["state"] == "Running" && row["incarnation"] == 1, "{row}");
    }
    frame.down()
}

/// A source that is raised far more often than it may be is quarantined, and nobody else is.
pub fn stormed() -> Result<()> {
    let limit = "[[partition]]\nname = \"alpha\"\ninterrupt_limit = { rate = 100, burst = 10 }";
    let frame = up_as(&DISKS.replace("[[partition]]\nname = \"alpha\"", limit))?;
    let mut alpha = console(&frame, "alpha")?;
    let answer = alpha.ask("requests 8 3000", "requests")?;
    ensure!(field(&answer, "requests")? == 3000, "{answer:?}");
    ensure!(field(&answer, "interrupts")? < 1000, "the limit was not kept: {answer:?}");
    let event = frame.lpar.event("B2000009", "alpha")?;
    ensure!(event["text"].as_str().is_some_and(|text| text.contains("own")), "{event}");
    // The other sources of the partition, and other partitions, have theirs.
    let answer = alpha.ask(&format!("requests {ENTROPY} 5"), "requests")?;
    ensure!(field(&answer, "interrupts")? == 5, "{answer:?}");
    let answer = console(&frame, "beta")?.ask("requests 8 200", "requests")?;
    ensure!(field(&answer, "interrupts")? == 200, "{answer:?}");
    // A quiet second ends it, and the interrupts come again.
    let row = wait::until("the end of the quarantine", || {
        let row = sources(&frame, "alpha", "own")?.swap_remove(0);
        Ok((row["state"] == "enabled").then_some(row))
    })?;
    ensure!(row["storms"] == 1 && row["coalesced"].as_u64().is_some_and(|count| count > 1000), "{row}");
    let answer = alpha.ask("requests 8 5", "requests")?;
    ensure!(field(&answer, "interrupts")? == 5, "{answer:?}");
    frame.down()
}
