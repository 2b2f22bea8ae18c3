//! What stock Linux sees of its partition's machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testbed::{Error, Testbed, host, install_bulkhead};

use crate::harness::{Test, output, skip};

/// Linux takes tens of seconds in an emulated machine's virtual machine; a busy host makes it minutes.
const LONG: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(90);

pub const TESTS: &[Test] = &[("linux_on_eight_processors_sees_the_planned_machine", eight)];

/// What is asked of Linux: a line for each processor, then who it is, its clock, its nodes, its complaints.
const QUESTIONS: &str = "for c in /sys/devices/system/cpu/cpu[0-9]*; do echo seen=${c##*/cpu},$(cat \
    $c/topology/physical_package_id),$(cat $c/topology/core_id),$(cat $c/topology/thread_siblings_list); done; \
    cd /sys/class/dmi/id; echo seen=$(cat sys_vendor product_sku product_family chassis_serial); \
    echo seen=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource); \
    echo seen=$(cat /sys/devices/system/node/online); \
    echo seen=$(dmesg | grep -cE 'ACPI (BIOS )?(Error|Warning)|Firmware (Bug|Warn)|not on the same node'); echo end$((1+1))";

fn eight(testbed: &mut Testbed) -> Result<()> {
    if let Err(error @ Error::NotBuilt { .. }) = install_bulkhead() {
        return Err(skip(error.to_string()));
    }
    let file = format!(
        "[frame]\nname = \"bed\"\nmemory_block = \"2MiB\"\nreserved = {{ cpus = 0, memory = \"256MiB\" }}\n\
         [[pool]]\nname = \"default\"\ncpus = 1\n[[partition]]\nname = \"red\"\n\
         processors = {{ mode = \"shared\", pool = \"default\", desired = 8, \
         units = {{ minimum = 0.4, desired = 0.8, maximum = 1.0 }}, sharing = \"uncapped\", weight = 128 }}\n\
         memory = {{ desired = \"256MiB\" }}\n\
         boot = {{ kernel = \"{}\", initrd = \"{}\", cmdline = \"console=ttyS0 name=red\" }}\n",
        host::GUEST_KERNEL,
        host::GUEST_INITRD
    );
    output(testbed, &format!("cat > /tmp/eight.toml <<'FILE'\n{file}FILE"), SOON)?;
    let plan = output(testbed, "lpar plan /tmp/eight.toml --json", SOON)?;
    ensure!(plan.contains("\"red\""), "{plan}");
    output(testbed, "lpar up /tmp/eight.toml --detach", SOON)?;
    history(testbed, "BULKHEAD-GUEST name=red cpus=8 reached user space")?;
    // What the shell echoes has no `end2` in it.
    output(
        testbed,
        &format!("(sleep 1; cat; sleep 5) <<'ASK' | timeout 30 lpar console red >/dev/null; true\n{QUESTIONS}\nASK"),
        SOON,
    )?;
    let told = history(testbed, "end2")?;
    let seen: Vec<&str> = told.lines().filter_map(|line| line.trim_end().strip_prefix("seen=")).collect();
    let processors: Vec<String> = (0..8).map(|cpu| format!("{cpu},0,{cpu},{cpu}")).collect();
    let expected = ["Bulkhead red bed bed", "kvm-clock", "0", "0"];
    ensure!(seen.get(..8).context(told.clone())? == processors, "{seen:?}");
    ensure!(seen.get(8..) == Some(&expected), "{seen:?}");
    output(testbed, "lpar down --immediate", SOON)?;
    Ok(())
}

/// Waits until the console's history has `text`, and gives the history.
fn history(testbed: &mut Testbed, text: &str) -> Result<String> {
    let start = Instant::now();
    loop {
        let history = output(testbed, "lpar console red --history", SOON)?;
        if history.contains(text) {
            return Ok(history);
        }
        ensure!(start.elapsed() < LONG, "the console has no {text:?}:\n{history}");
        std::thread::sleep(Duration::from_millis(500));
    }
}
