//! The example frame files, run as their readers would run them.

use anyhow::{Context, Result, ensure};
use end_to_end::console::Console;
use end_to_end::frame::Frame;
use end_to_end::{host, wait};
use serde_json::Value;

/// CPUs that `real-time.toml` needs.
const REAL_TIME_CPUS: usize = 6;

/// A file in `configs/`.
pub fn path(name: &str) -> String {
    format!("{}/../../configs/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// An example as it stands, but for the name of its frame.
pub fn example(name: &str) -> Result<String> {
    let file = path(&format!("{name}.toml"));
    let text = std::fs::read_to_string(&file).with_context(|| file.clone())?;
    ensure!(text.starts_with("#:schema ./frame.schema.json\n"), "{file} does not name the schema");
    let named = format!("name = \"{name}\"");
    ensure!(text.contains(&named), "{file} names its frame otherwise");
    Ok(text.replacen(&named, "name = \"@NAME@\"", 1))
}

/// Why this machine cannot run `real-time.toml`; none when it can.
pub fn lacks_cpus() -> Option<String> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus < REAL_TIME_CPUS).then(|| format!("needs {REAL_TIME_CPUS} CPUs, this machine has {cpus}"))
}

fn rows(frame: &Frame) -> Result<Vec<Value>> {
    frame.lpar.json("ls")?.as_array().cloned().context("no rows")
}

pub fn consolidation() -> Result<()> {
    let frame = Frame::up(&example("consolidation")?)?;
    let rows = rows(&frame)?;
    ensure!(rows.len() == 50, "{} partitions", rows.len());
    ensure!(rows.iter().all(|row| row["state"] == "Running" && row["mode"] == "shared"), "{rows:?}");
    let units = |name: &str| rows.iter().find(|row| row["name"] == name).and_then(|row| row["units"].as_f64());
    ensure!((units("gold-10"), units("tenant-40")) == (Some(0.03), Some(0.01)), "{rows:?}");
    let mut console = Console::open(&frame.lpar, "tenant-17")?;
    let before = console.ask("beats", "beats")?;
    wait::until("beats of one of fifty", || {
        Ok((console.ask("beats", "beats")?["beats"] > before["beats"]).then_some(()))
    })?;
    drop(console);
    frame.lpar.ok("down")?;
    frame.nothing_left()
}

pub fn fault_injection() -> Result<()> {
    let frame = Frame::up(&example("fault-injection")?)?;
    let witness = frame.partition("witness")?;
    let mut console = Console::open(&frame.lpar, "witness")?;
    let before = console.ask("beats", "beats")?;
    for (name, code) in [("crash", "B2000002"), ("triple-fault", "B2000001")] {
        // It may be over before the answer that it runs.
        frame.lpar.run_all(["activate", name])?;
        let event = frame.lpar.event(code, name)?;
        ensure!(event["partitions"] == serde_json::json!([name]), "the fault is of one partition: {event}");
        frame.lpar.wait(name, "Error")?;
    }
    for name in ["wild", "storm"] {
        frame.lpar.run_all(["activate", name])?;
        frame.lpar.wait(name, "Not Activated")?;
        let said = frame.lpar.run_all(["console", name, "--history"])?.expect(0)?.stdout;
        ensure!(said.contains(name), "{name} said nothing of what it did: {said}");
    }
    frame.lpar.ok("activate hang")?;
    frame.lpar.ok("shutdown hang")?;
    ensure!(frame.lpar.row("hang")?["state"] != "Running");
    // The witness beat through all of it, in the same process.
    let after = wait::until("the witness's beats", || {
        let now = console.ask("beats", "beats")?;
        Ok((now["beats"] > before["beats"] + 10).then_some(now))
    })?;
    ensure!(after["processors"] == 1 && frame.partition("witness")? == witness && host::runs(witness), "{after:?}");
    drop(console);
    frame.down()
}

pub fn real_time_planned() -> Result<()> {
    let frame = Frame::new(&example("real-time")?)?;
    let file = frame.file();
    let inventory = path("inventories/two-sockets.json");
    let plan = ["plan".as_ref(), file.as_os_str(), "--inventory".as_ref(), inventory.as_ref(), "--json".as_ref()];
    let plan = frame.lpar.run_all(plan)?.expect(0)?.json()?;
    let partitions = plan["partitions"].as_array().context("no partitions")?;
    ensure!(partitions.len() == 3 && plan["withheld"].as_array().is_some_and(Vec::is_empty), "{plan}");
    for partition in partitions.iter().filter(|one| one["backing"]["mode"] == "dedicated") {
        // The siblings of CPU n on that machine are n and n + 16: two CPUs in whole cores are one core.
        let cpus = partition["cpus"].as_str().context("no CPUs")?;
        let (first, second) = cpus.split_once(',').with_context(|| format!("no whole core: {partition}"))?;
        ensure!(first.parse::<u32>()? + 16 == second.parse::<u32>()?, "no whole core: {partition}");
        ensure!(partition["score"] == 100, "{partition}");
        let extents = partition["memory"].as_array().context("no memory")?;
        ensure!(extents.iter().all(|extent| extent["pages"] == 2 << 20), "{partition}");
        ensure!(partition["io"] == plan["pools"][0]["cpus"], "device threads live on the pool: {plan}");
    }
    frame.nothing_left()
}

pub fn real_time_runs() -> Result<()> {
    let text = example("real-time")?;
    // Where nobody set huge pages aside, ordinary ones are taken.
    let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let enough = free.is_ok_and(|free| free.trim().parse::<u64>().is_ok_and(|free| free >= 384));
    let text = if enough { text } else { text.replace(", pages = \"2MiB\"", "") };
    let frame = Frame::up(&text)?;
    for row in rows(&frame)? {
        ensure!(row["state"] == "Running", "{row}");
    }
    let mut console = Console::open(&frame.lpar, "motion")?;
    ensure!(console.ask("beats", "beats")?["processors"] == 2);
    drop(console);
    frame.down()
}

pub fn linux() -> Result<()> {
    let frame = Frame::new(&example("linux")?)?;
    let file = frame.file();
    let check = || frame.lpar.run_all(["check".as_ref(), file.as_os_str()]);
    // As it stands it says which files it wants.
    let said = check()?.expect(1)?.stderr;
    ensure!(said.contains("vmlinuz") && said.contains("initrd.img"), "{said}");
    // With the payload's image in the kernel's place it runs on any KVM; Linux itself boots in the testbed.
    let image = std::process::Command::new(end_to_end::lpar::binaries()?.join("partition")).arg("--image").output()?;
    ensure!(image.stdout.starts_with(b"\x7fELF"), "partition --image gives an ELF");
    std::fs::write(frame.directory().join("vmlinuz"), &image.stdout)?;
    std::fs::write(frame.directory().join("initrd.img"), b"a disk that nobody reads")?;
    check()?.expect(0)?;
    frame.lpar.run_all(["up".as_ref(), file.as_os_str(), "--detach".as_ref()])?.expect(0)?;
    let rows = rows(&frame)?;
    ensure!(rows.len() == 2 && rows.iter().all(|row| row["state"] == "Running"), "{rows:?}");
    let mut console = Console::open(&frame.lpar, "web")?;
    ensure!(console.ask("beats", "beats")?["processors"] == 2, "two virtual processors on a pool of one CPU");
    drop(console);
    frame.down()
}
