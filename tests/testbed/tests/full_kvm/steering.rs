//! Interrupts of the host's devices: those of dedicated disks go to their partition's CPUs.

use anyhow::{Context, Result, ensure};
use frame::cpuset::CpuSet;
use frame::steer::{HostInterruptRow, HostRoute};
use std::time::{Duration, Instant};
use testbed::Testbed;

use crate::harness::Test;
use crate::linux::{console, down, raise, succeeds};

pub const TESTS: &[Test] = &[("a_dedicated_disks_interrupts_go_to_its_partitions_cpu", disks)];

const SOON: Duration = Duration::from_secs(90);

/// Of two disks one has an interrupt that can be moved, the other such that the kernel manages itself.
fn disks(testbed: &mut Testbed) -> Result<()> {
    succeeds(
        testbed,
        "modprobe virtio_pci; modprobe virtio_blk; modprobe ahci; modprobe sd_mod; \
         for n in $(seq 300); do [ -b /dev/vda -a -b /dev/sda ] && exit 0; sleep 0.1; done; exit 1",
    )?;
    let before = affinities(testbed)?;
    let file = "[frame]\nname = \"bed\"\nmemory_block = \"2MiB\"\nreserved = { cpus = 1, memory = \"128MiB\" }\n\
         [[pool]]\nname = \"default\"\ncpus = 1\n\
         [[partition]]\nname = \"red\"\nprocessors = { mode = \"dedicated\", desired = 1 }\n\
         memory = { desired = \"16MiB\" }\nboot = \"diagnostics\"\n\
         [[partition.disk]]\nname = \"movable\"\npath = \"/dev/sda\"\ndedicated = true\nslot = 8\n\
         [[partition.disk]]\nname = \"managed\"\npath = \"/dev/vda\"\ndedicated = true\nslot = 9\n\
         [[partition]]\nname = \"blue\"\nprocessors = { mode = \"shared\", desired = 1, units = { desired = 0.5 } }\n\
         memory = { desired = \"16MiB\" }\nboot = \"diagnostics\"\n";
    // Nobody else may have a disk of a dedicated function.
    let other = "[[partition.disk]]\nname = \"theirs\"\npath = \"/dev/sda\"\nread_only = true\n";
    let wrong =
        testbed.run(&format!("cat > /tmp/wrong.toml <<'FILE'\n{file}{other}FILE\nlpar check /tmp/wrong.toml"), SOON)?;
    ensure!(wrong.status == 1 && wrong.stderr.contains("dedicated-shared"), "{}{}", wrong.stdout, wrong.stderr);
    raise(testbed, file)?;
    let shown: serde_json::Value = serde_json::from_str(&succeeds(testbed, "lpar show red --json")?)?;
    let own = shown["resources"]["cpus"]["assigned"].as_str().context("no CPUs")?.to_owned();
    let rows = settled(testbed)?;
    let shown = format!("{rows:#?}");
    let of = |state: HostRoute| rows.iter().filter(move |row| row.state == state && row.partition.is_some());
    let routed: Vec<&HostInterruptRow> = of(HostRoute::Own).filter(|row| row.name.contains("ahci")).collect();
    let [routed] = routed[..] else { anyhow::bail!("the movable disk's interrupt is not routed: {shown}") };
    let cpu: u32 = routed.wanted.iter().next().context("no CPU")?;
    ensure!(routed.wanted.len() == 1 && own.parse() == Ok(cpu), "{own}: {shown}");
    ensure!(of(HostRoute::Refused).any(|row| row.name.contains("virtio") && row.name.contains("req")), "{shown}");
    let refused = succeeds(testbed, "lpar events")?;
    ensure!(refused.matches("B200000E").count() == 1 && refused.contains("the kernel manages it itself"), "{refused}");
    // No other interrupt goes to that CPU, but for those that the kernel manages itself.
    let listed = |number: u32| rows.iter().any(|row| row.interrupt == number && row.state != HostRoute::Away);
    for (number, cpus) in affinities(testbed)? {
        ensure!(!cpus.contains(cpu) || listed(number), "interrupt {number} may go to {cpus}: {shown}");
    }
    // They come where they are wanted, from the second on: without remapping the kernel sends a message elsewhere
    // when one comes (Linux, kernel/irq/migration.c).
    let taken = count(testbed, routed.interrupt, cpu)?;
    console(testbed, "red", "beat", 1)?;
    for number in 0..8 {
        crate::console::enter(testbed, "red", &format!("disk-read 8 {}", number * 64))?;
    }
    console(testbed, "red", "disk status=0", 8)?;
    let after = count(testbed, routed.interrupt, cpu)?;
    ensure!(after + 1 >= taken + 8, "CPU {cpu} took {taken}, then {after} of interrupt {}", routed.interrupt);
    let audit = testbed.run("lpar audit --for 1s --json", SOON)?;
    ensure!(!audit.stdout.contains("ahci"), "its own interrupt is held against it: {}", audit.stdout);
    down(testbed)?;
    let left = affinities(testbed)?;
    ensure!(left == before, "{left:?} instead of {before:?}");
    succeeds(testbed, "modprobe -r virtio_blk; modprobe -r sd_mod; modprobe -r ahci; true")?;
    Ok(())
}

/// The interrupts that the frame steers, once it does.
fn settled(testbed: &mut Testbed) -> Result<Vec<HostInterruptRow>> {
    let start = Instant::now();
    loop {
        let rows: Vec<HostInterruptRow> = serde_json::from_str(&succeeds(testbed, "lpar interrupts --host --json")?)?;
        if !rows.is_empty() {
            return Ok(rows);
        }
        ensure!(start.elapsed() < SOON, "no interrupt is steered:\n{}", succeeds(testbed, "lpar events")?);
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn affinities(testbed: &mut Testbed) -> Result<Vec<(u32, CpuSet)>> {
    let told = succeeds(testbed, "cd /proc/irq; for n in [0-9]*; do echo $n $(cat $n/smp_affinity_list); done")?;
    let one = |line: &str| {
        let (number, cpus) = line.split_once(' ').context(line.to_owned())?;
        Ok((number.parse()?, CpuSet::parse(cpus)?))
    };
    told.lines().map(one).collect()
}

/// How many of an interrupt a CPU took.
fn count(testbed: &mut Testbed, interrupt: u32, cpu: u32) -> Result<u64> {
    let line = succeeds(testbed, &format!("grep '^ *{interrupt}:' /proc/interrupts"))?;
    let column = line.split_whitespace().nth(1 + cpu as usize).with_context(|| line.clone())?;
    Ok(column.parse()?)
}
