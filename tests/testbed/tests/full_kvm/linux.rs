//! Stock Debian Linux in partitions, side by side.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testbed::{Error, Testbed, host, install_bulkhead};

use crate::harness::{Test, skip};

/// Linux takes tens of seconds in an emulated machine's virtual machine; a busy host makes it minutes.
const LONG: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(90);

pub const TESTS: &[Test] = &[
    ("two_partitions_of_stock_linux_reach_user_space_side_by_side", side_by_side),
    ("the_power_button_shuts_linux_down", power_button),
    ("linux_powers_itself_off", powers_off),
    ("linux_restarts_and_comes_back", restarts),
    ("linux_runs_on_when_its_manager_is_killed", manager_killed),
    ("a_panic_is_one_event_and_hurts_nobody_else", panics),
    ("a_watchdog_that_linux_leaves_alone_expires", watchdog),
    ("partitions_see_nothing_of_a_host_that_runs_from_its_ram_disk", walled),
    ("linux_runs_with_a_split_interrupt_controller", |testbed| controllers(testbed, "split")),
    ("linux_runs_with_an_emulated_interrupt_controller", |testbed| controllers(testbed, "emulated")),
];

/// The root file system of such a host cannot be left, only covered. One of two that start at once finds an empty root
/// made ahead, the other makes its own.
fn walled(testbed: &mut Testbed) -> Result<()> {
    let payload = |name: &str| {
        format!(
            "[[partition]]\nname = \"{name}\"\nprocessors = {{ mode = \"shared\", desired = 1, units = {{ desired = 0.2 }} }}\n\
             memory = {{ desired = \"16MiB\" }}\nboot = \"diagnostics\"\n"
        )
    };
    let head = "[frame]\nname = \"bed\"\nmemory_block = \"2MiB\"\nreserved = { cpus = 0, memory = \"128MiB\" }\n\
         [[pool]]\nname = \"default\"\ncpus = 1\n";
    raise(testbed, &format!("{head}{}{}", payload("red"), payload("blue")))?;
    let look = "for p in $(lpar ls -F pid); do echo of $(readlink /proc/$p/ns/mnt) $(ls -A /proc/$p/root/ | wc -l) $(ls -A /proc/$p/cwd/ | wc -l); done; readlink /proc/self/ns/mnt";
    for _ in 0..2 {
        let seen = succeeds(testbed, look)?;
        let (partitions, own): (Vec<&str>, Vec<&str>) = seen.lines().partition(|line| line.starts_with("of "));
        ensure!(partitions.len() == 2 && partitions.iter().all(|line| line.ends_with(" 0 0")), "{seen}");
        let namespaces: Vec<&str> = partitions.iter().filter_map(|line| line.split(' ').nth(1)).collect();
        ensure!(namespaces[0] != namespaces[1] && namespaces.iter().all(|one| !own.contains(one)), "{seen}");
        // Alone, with one at hand.
        succeeds(testbed, "lpar shutdown red --immediate && sleep 1 && lpar activate red")?;
    }
    down(testbed)
}

/// A frame of Linux partitions: name, virtual processors, further words of the command line.
fn up(testbed: &mut Testbed, partitions: &[(&str, u32, &str)]) -> Result<()> {
    raise(testbed, &frame(partitions))
}

fn frame(partitions: &[(&str, u32, &str)]) -> String {
    let mut file = String::from(
        "[frame]\nname = \"bed\"\nmemory_block = \"2MiB\"\nreserved = { cpus = 0, memory = \"256MiB\" }\n\
         [[pool]]\nname = \"default\"\ncpus = 1\n",
    );
    for (name, processors, words) in partitions {
        file += &format!(
            "[[partition]]\nname = \"{name}\"\nprocessors = {{ mode = \"shared\", pool = \"default\", \
             desired = {processors}, units = {{ minimum = 0.1, desired = 0.4, maximum = 1.0 }}, \
             sharing = \"uncapped\", weight = 128 }}\nmemory = {{ desired = \"256MiB\" }}\n\
             boot = {{ kernel = \"{}\", initrd = \"{}\", cmdline = \"console=ttyS0 name={name} {words}\" }}\n\
             shutdown = {{ ask = \"1s\", button = \"60s\", nmi = \"5s\" }}\n",
            host::GUEST_KERNEL,
            host::GUEST_INITRD
        );
    }
    file
}

/// Brings a frame up, and leaves it.
pub fn raise(testbed: &mut Testbed, file: &str) -> Result<()> {
    if let Err(error @ Error::NotBuilt { .. }) = install_bulkhead() {
        return Err(skip(error.to_string()));
    }
    succeeds(testbed, &format!("cat > /tmp/bed.toml <<'FILE'\n{file}FILE"))?;
    succeeds(testbed, "lpar up /tmp/bed.toml --detach")?;
    Ok(())
}

/// Brings the frame down.
pub fn down(testbed: &mut Testbed) -> Result<()> {
    succeeds(testbed, "lpar down --immediate")?;
    let left = succeeds(
        testbed,
        "find /run/bulkhead -type s 2>/dev/null; pidof partition partition-manager service-processor; true",
    )?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    Ok(())
}

/// Runs a command that must succeed, and gives its standard output.
pub fn succeeds(testbed: &mut Testbed, command: &str) -> Result<String> {
    let output = testbed.run(command, SOON)?;
    ensure!(output.success(), "`{command}` exited with {}:\n{}{}", output.status, output.stdout, output.stderr);
    Ok(output.stdout)
}

/// Waits until the console's history has `text` at least `times`, and gives the history.
pub fn console(testbed: &mut Testbed, partition: &str, text: &str, times: usize) -> Result<String> {
    let start = Instant::now();
    loop {
        let history = succeeds(testbed, &format!("lpar console {partition} --history"))?;
        if history.matches(text).count() >= times {
            return Ok(history);
        }
        // A partition in error says nothing more, however long it is waited for.
        ensure!(
            start.elapsed() < LONG && !state(testbed, partition)?.starts_with("Error"),
            "the console of {partition} has not {times} times {text:?}:\n{history}\n{}",
            succeeds(testbed, "lpar ls; lpar events")?
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn state(testbed: &mut Testbed, partition: &str) -> Result<String> {
    let listed = succeeds(testbed, "lpar ls -F name,state,incarnation")?;
    let line = listed.lines().find_map(|line| line.strip_prefix(&format!("{partition},")));
    Ok(line.with_context(|| format!("no {partition} in {listed}"))?.to_owned())
}

/// The panic device tells the panic as it happens; the registers are those of the crash.
fn panics(testbed: &mut Testbed) -> Result<()> {
    up(testbed, &[("red", 1, "action=panic"), ("blue", 1, "")])?;
    let begin = Instant::now();
    while !state(testbed, "red")?.starts_with("Error") {
        ensure!(begin.elapsed() < LONG, "red panics and runs:\n{}", succeeds(testbed, "lpar console red --history")?);
        std::thread::sleep(Duration::from_millis(500));
    }
    let history = succeeds(testbed, "lpar console red --history")?;
    ensure!(history.contains("Kernel panic - not syncing"), "it did not panic:\n{history}");
    let text = succeeds(testbed, "lpar events --json")?;
    let events: Vec<serde_json::Value> = serde_json::from_str(&text).with_context(|| text.clone())?;
    let ours: Vec<_> = events.iter().filter(|event| event["code"] == "B200000B").collect();
    ensure!(ours.len() == 1, "one panic is one event:\n{text}");
    ensure!(ours[0]["partitions"] == serde_json::json!(["red"]), "{}", ours[0]);
    ensure!(ours[0]["data"]["registers"][0]["rip"].as_u64().is_some_and(|rip| rip != 0), "no registers: {}", ours[0]);
    console(testbed, "blue", "beat=5", 1)?;
    ensure!(state(testbed, "blue")?.starts_with("Running,1"), "{}", state(testbed, "blue")?);
    down(testbed)
}

/// Linux's own driver arms the watchdog and reloads it; it expires when nobody does so any more, and not before.
fn watchdog(testbed: &mut Testbed) -> Result<()> {
    // The cloud flavour of 6.1 has no driver of it.
    let (kernel, initrd) = host::other_kernel("6.12", "cloud");
    crate::kernels::needs(testbed, &kernel)?;
    let file = frame(&[("red", 1, "action=watchdog"), ("blue", 1, "")]);
    let file = file.replacen(host::GUEST_KERNEL, &kernel, 1).replacen(host::GUEST_INITRD, &initrd, 1);
    raise(testbed, &file.replacen("shutdown =", "watchdog = \"error\"\nshutdown =", 1))?;
    console(testbed, "red", "watchdog function=0000:00:02.0", 1)?;
    console(testbed, "red", "watchdog reloaded for 20 seconds", 1)?;
    let begin = Instant::now();
    while !state(testbed, "red")?.starts_with("Error") {
        ensure!(begin.elapsed() < LONG, "red hangs and runs:\n{}", succeeds(testbed, "lpar console red --history")?);
        std::thread::sleep(Duration::from_millis(500));
    }
    let text = succeeds(testbed, "lpar events --json")?;
    let events: Vec<serde_json::Value> = serde_json::from_str(&text).with_context(|| text.clone())?;
    let ours: Vec<_> = events.iter().filter(|event| event["code"] == "B200000C").collect();
    ensure!(ours.len() == 1, "one hang is one event:\n{text}");
    ensure!(ours[0]["partitions"] == serde_json::json!(["red"]), "{}", ours[0]);
    ensure!(ours[0]["data"]["cause"]["watchdog"]["restart"] == false, "{}", ours[0]);
    ensure!(ours[0]["data"]["registers"][0]["rip"].as_u64().is_some_and(|rip| rip != 0), "no registers: {}", ours[0]);
    console(testbed, "blue", "beat=5", 1)?;
    ensure!(state(testbed, "blue")?.starts_with("Running,1"), "{}", state(testbed, "blue")?);
    down(testbed)
}

fn side_by_side(testbed: &mut Testbed) -> Result<()> {
    up(testbed, &[("red", 1, ""), ("blue", 2, "")])?;
    console(testbed, "red", "BULKHEAD-GUEST name=red cpus=1 reached user space", 1)?;
    console(testbed, "blue", "BULKHEAD-GUEST name=blue cpus=2 reached user space", 1)?;
    // Both beat: they run at the same time, not one after the other.
    for name in ["red", "blue"] {
        let beats = console(testbed, name, "beat=", 1)?.matches("beat=").count();
        console(testbed, name, "beat=", beats + 2)?;
    }
    ensure!(state(testbed, "red")? == "Running,1" && state(testbed, "blue")? == "Running,1");
    down(testbed)
}

fn power_button(testbed: &mut Testbed) -> Result<()> {
    up(testbed, &[("red", 1, "")])?;
    let history = console(testbed, "red", "power buttons=", 1)?;
    ensure!(!history.contains("power buttons=0"), "Linux found no power button:\n{history}");
    let output = testbed.run("lpar shutdown red", LONG)?;
    ensure!(output.success(), "shutdown: {} {}", output.stdout, output.stderr);
    ensure!(state(testbed, "red")? == "Not Activated,1");
    console(testbed, "red", "power button pressed", 1)?;
    let events = succeeds(testbed, "lpar events")?;
    ensure!(!events.contains("B200"), "an orderly end is no error:\n{events}");
    down(testbed)
}

fn powers_off(testbed: &mut Testbed) -> Result<()> {
    up(testbed, &[("red", 1, "action=poweroff"), ("blue", 1, "")])?;
    let waited = testbed.run("lpar wait red --state 'Not Activated' --timeout 200s", LONG)?;
    ensure!(waited.success(), "wait: {} {}", waited.stdout, waited.stderr);
    console(testbed, "red", "powering off", 1)?;
    console(testbed, "blue", "reached user space", 1)?;
    ensure!(state(testbed, "blue")? == "Running,1");
    down(testbed)
}

fn restarts(testbed: &mut Testbed) -> Result<()> {
    // Quiet, so that the console's bounded history holds both lives.
    up(testbed, &[("red", 1, "quiet action=reboot after=1")])?;
    console(testbed, "red", "reached user space", 2)?;
    let now = state(testbed, "red")?;
    ensure!(!now.ends_with(",1"), "a restart is a new incarnation: {now}");
    down(testbed)
}

fn manager_killed(testbed: &mut Testbed) -> Result<()> {
    up(testbed, &[("red", 1, "")])?;
    let before = console(testbed, "red", "beat=", 2)?.matches("beat=").count();
    succeeds(
        testbed,
        "old=$(pidof partition-manager); kill -9 $old; while [ \"$(pidof partition-manager)\" = \"$old\" ]; do sleep 0.1; done",
    )?;
    console(testbed, "red", "beat=", before + 3)?;
    let all = console(testbed, "red", "reached user space", 1)?;
    ensure!(all.matches("reached user space").count() == 1, "Linux did not start anew:\n{all}");
    ensure!(state(testbed, "red")? == "Running,1");
    down(testbed)
}

/// The timer of each processor beats only if its interrupts come: those of KVM's own controllers are in the tests above.
fn controllers(testbed: &mut Testbed, mode: &str) -> Result<()> {
    let line = format!("[[partition]]\ninterrupts = \"{mode}\"\n");
    let file = frame(&[("red", 2, "")]).replace("[[partition]]\n", &line);
    raise(testbed, &file)?;
    console(testbed, "red", "BULKHEAD-GUEST name=red cpus=2 reached user space", 1)?;
    console(testbed, "red", "beat=", 2)?;
    ensure!(state(testbed, "red")? == "Running,1");
    down(testbed)
}
