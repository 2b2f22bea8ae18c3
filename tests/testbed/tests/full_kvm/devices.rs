//! Stock Debian Linux with virtio devices on its PCI bus.

use anyhow::{Context, Result, ensure};
use frame::device_row::DeviceRow;
use frame::interrupt::{InterruptRow, SourceState};
use std::collections::BTreeSet;
use std::time::Duration;
use testbed::{Testbed, host};

use crate::harness::{Test, skip};
use crate::linux::{console, down, raise, succeeds};

pub const TESTS: &[Test] = &[
    ("linux_copies_one_disk_to_another_and_may_not_write_the_first", disks),
    ("linux_has_its_root_file_system_on_a_disk", root),
    ("linux_has_a_second_terminal_and_ports", ports),
    ("a_slow_disk_has_several_requests_under_way_at_once", slow),
];

/// The image is ext4, with what the initial RAM disk has; it is clean after the power button.
fn root(testbed: &mut Testbed) -> Result<()> {
    if !testbed.run(&format!("test -x {} -a -x {}", host::MKE2FS, host::E2FSCK), Duration::from_secs(60))?.success() {
        return Err(skip("this machine has no e2fsprogs (apt-get install e2fsprogs)".to_owned()));
    }
    // Written whole, since it is in memory; what mke2fs discards would have to be written anew.
    succeeds(
        testbed,
        &format!(
            "mkdir /tmp/tree && cd /tmp/tree && cpio -id <{} 2>/dev/null && mkdir -p disk && cd / && \
             dd if=/dev/zero of=/tmp/root.img bs=1M count=192 2>/dev/null && \
             {} -q -t ext4 -E nodiscard -d /tmp/tree /tmp/root.img && rm -r /tmp/tree",
            host::GUEST_INITRD,
            host::MKE2FS
        ),
    )?;
    let file = format!(
        "[frame]\nname = \"bed\"\nmemory_block = \"2MiB\"\nreserved = {{ cpus = 0, memory = \"128MiB\" }}\n\
         [[pool]]\nname = \"default\"\ncpus = 1\n\
         [[partition]]\nname = \"red\"\nprocessors = {{ mode = \"shared\", desired = 1, units = {{ desired = 0.5 }} }}\n\
         memory = {{ desired = \"256MiB\" }}\n\
         boot = {{ kernel = \"{}\", initrd = \"{}\", cmdline = \"console=ttyS0 name=red action=root\" }}\n\
         shutdown = {{ ask = \"1s\", button = \"120s\", nmi = \"1s\" }}\n\
         [[partition.disk]]\nname = \"root\"\npath = \"root.img\"\n",
        host::GUEST_KERNEL,
        host::GUEST_INITRD
    );
    raise(testbed, &file)?;
    let history = console(testbed, "red", "root on=", 1)?;
    let said = |key: &str| history.split(&format!(" {key}=")).nth(1)?.split_whitespace().next().map(str::to_owned);
    ensure!(said("on").as_deref() == Some("/dev/vda,/,ext4"), "the root is elsewhere:\n{history}");
    ensure!(said("written").is_some_and(|digest| digest.len() == 32), "nothing was written:\n{history}");
    ensure!(said("written") == said("read"), "it reads otherwise:\n{history}");
    let output = testbed.run("lpar shutdown red", Duration::from_secs(300))?;
    ensure!(output.success(), "{}{}", output.stdout, output.stderr);
    let events = succeeds(testbed, "lpar events")?;
    ensure!(events.contains("power button"), "it was not the power button that ended it:\n{events}");
    // -n writes nothing, -f looks at everything: status 0 is a clean file system.
    let check = testbed.run(&format!("{} -fn /tmp/root.img", host::E2FSCK), Duration::from_secs(120))?;
    let said = format!("{}{}", check.stdout, check.stderr);
    ensure!(check.success() && !said.contains("recover"), "{said}");
    down(testbed)?;
    succeeds(testbed, "rm /tmp/root.img")?;
    Ok(())
}

/// Requests of 4 KiB for what Linux reads ahead, to a device that takes 2 s for each: it has several at once, and with
/// `engine = "sync"` never more than one. They are long so that whoever counts them cannot miss them.
fn slow(testbed: &mut Testbed) -> Result<()> {
    succeeds(
        testbed,
        "modprobe null_blk nr_devices=2 gb=1 irqmode=2 completion_nsec=2000000000 && \
         for d in nullb0 nullb1; do echo 0 >/sys/block/$d/queue/read_ahead_kb; done",
    )?;
    let partition = |name: &str, device: &str, engine: &str| {
        format!(
            "[[partition]]\nname = \"{name}\"\nprocessors = {{ mode = \"shared\", desired = 1, units = {{ desired = 0.5 }} }}\n\
             memory = {{ desired = \"256MiB\" }}\n\
             boot = {{ kernel = \"{}\", initrd = \"{}\", cmdline = \"console=ttyS0 name={name} action=shell\" }}\n\
             [[partition.disk]]\nname = \"slow\"\npath = \"/dev/{device}\"\nengine = \"{engine}\"\n",
            host::GUEST_KERNEL,
            host::GUEST_INITRD
        )
    };
    let file = format!(
        "[frame]\nname = \"bed\"\nmemory_block = \"2MiB\"\nreserved = {{ cpus = 0, memory = \"128MiB\" }}\n\
         [[pool]]\nname = \"default\"\ncpus = 1\n{}{}",
        partition("red", "nullb0", "auto"),
        partition("blue", "nullb1", "sync")
    );
    raise(testbed, &file)?;
    let rows: Vec<DeviceRow> = serde_json::from_str(&succeeds(testbed, "lpar devices --json")?)?;
    // In the order of names: blue, red.
    let rings: Vec<bool> = rows.iter().filter_map(|row| row.io_uring).collect();
    ensure!(rings == [false, true], "{rows:?}");
    let sample = |device: &str| {
        format!(
            "(most=0; while [ -e /tmp/sample ]; do read -r now others </sys/block/{device}/inflight; \
             [ \"$now\" -gt $most ] && most=$now; usleep 20000; done; echo $most >/tmp/most.{device}) >/dev/null 2>&1 &"
        )
    };
    succeeds(testbed, &format!("touch /tmp/sample; {} {}", sample("nullb0"), sample("nullb1")))?;
    let read = "modprobe virtio_pci; modprobe virtio_blk; echo 4 >/sys/block/vda/queue/max_sectors_kb; \
        dd if=/dev/vda of=/dev/null bs=32k skip=1000 count=1 2>/dev/null && echo seen=re\"\"ad";
    for name in ["red", "blue"] {
        crate::console::wait(testbed, name, "reached user space")?;
        let said = crate::console::ask(testbed, name, read)?;
        ensure!(said.iter().any(|line| line == "read"), "{name}: {said:?}");
    }
    let most = succeeds(
        testbed,
        "rm /tmp/sample; for d in nullb0 nullb1; do \
         for n in $(seq 600); do [ -s /tmp/most.$d ] && break; sleep 0.1; done; cat /tmp/most.$d; done",
    )?;
    let most: Vec<u64> = most.split_whitespace().map(str::parse).collect::<Result<_, _>>().context(most.clone())?;
    ensure!(matches!(most[..], [several, 1] if several >= 4), "under way at once: {most:?}");
    down(testbed)?;
    succeeds(testbed, "modprobe -r null_blk")?;
    Ok(())
}

/// Linux finds the ports by their names, a program of the host talks to one of the guest, and the second terminal has
/// both directions.
fn ports(testbed: &mut Testbed) -> Result<()> {
    let file = format!(
        "[frame]\nname = \"bed\"\nmemory_block = \"2MiB\"\nreserved = {{ cpus = 0, memory = \"128MiB\" }}\n\
         [[pool]]\nname = \"default\"\ncpus = 1\n\
         [[partition]]\nname = \"red\"\nprocessors = {{ mode = \"shared\", desired = 1, units = {{ desired = 0.5 }} }}\n\
         memory = {{ desired = \"256MiB\" }}\n\
         boot = {{ kernel = \"{}\", initrd = \"{}\", cmdline = \"console=ttyS0 name=red action=ports\" }}\n\
         console = {{ ports = [\"agent\", \"backup\"] }}\n",
        host::GUEST_KERNEL,
        host::GUEST_INITRD
    );
    raise(testbed, &file)?;
    let history = console(testbed, "red", "port backup", 1)?;
    for name in ["hvc0", "agent", "backup"] {
        ensure!(history.contains(&format!("port {name} device=vport")), "Linux does not see {name}:\n{history}");
    }
    // A guest that is too slow for a session is asked again.
    let again = |ask: &str, answer: &str| {
        format!("for n in $(seq 20); do {ask} | grep -q '{answer}' && echo found && break; sleep 1; done")
    };
    for port in ["backup", "agent"] {
        let ask = format!("(echo hello; sleep 3) | lpar console red --port {port}");
        let found = succeeds(testbed, &again(&ask, "the guest heard hello"))?;
        ensure!(found.trim_end() == "found", "{port}: nothing answers");
    }
    let found = succeeds(testbed, &again("lpar console red --port hvc0 --history", "the second terminal of red"))?;
    ensure!(found.trim_end() == "found", "the terminal is empty");
    succeeds(testbed, "echo good evening | lpar console red --port hvc0 >/dev/null")?;
    console(testbed, "red", "terminal heard=good evening", 1)?;
    let events = succeeds(testbed, "lpar events")?;
    ensure!(!events.contains("B2000007"), "a device froze:\n{events}");
    down(testbed)
}

fn disks(testbed: &mut Testbed) -> Result<()> {
    let megabytes = 100;
    // Both are written whole here: the files are in memory, and what a partition writes anew is charged to it.
    let digest = succeeds(
        testbed,
        &format!(
            "dd if=/dev/urandom of=/tmp/first.img bs=1M count={megabytes} 2>/dev/null && \
             dd if=/dev/zero of=/tmp/second.img bs=1M count={megabytes} 2>/dev/null && md5sum </tmp/first.img | cut -d' ' -f1"
        ),
    )?;
    let digest = digest.trim();
    let file = format!(
        "[frame]\nname = \"bed\"\nmemory_block = \"2MiB\"\nreserved = {{ cpus = 0, memory = \"128MiB\" }}\n\
         [[pool]]\nname = \"default\"\ncpus = 1\n\
         [[partition]]\nname = \"red\"\nprocessors = {{ mode = \"shared\", desired = 2, units = {{ desired = 0.5 }} }}\n\
         memory = {{ desired = \"256MiB\" }}\n\
         boot = {{ kernel = \"{}\", initrd = \"{}\", cmdline = \"console=ttyS0 name=red action=disk\" }}\n\
         [[partition.disk]]\nname = \"first\"\npath = \"first.img\"\nread_only = true\nserial = \"blkh-first\"\n\
         [[partition.disk]]\nname = \"second\"\npath = \"second.img\"\n",
        host::GUEST_KERNEL,
        host::GUEST_INITRD
    );
    raise(testbed, &file)?;
    let history = console(testbed, "red", "disk done", 1)?;
    ensure!(history.contains(&format!("disk first={digest} serial=blkh-first")), "not {digest}:\n{history}");
    ensure!(history.contains(&format!("disk second={digest}")), "the copy reads otherwise:\n{history}");
    ensure!(!history.contains("disk first was written"), "a read-only disk was written:\n{history}");
    ensure!(history.contains("disk random=virtio_rng"), "there is no entropy device:\n{history}");
    ensure!(!history.contains("No config space access function"), "PCI is not found:\n{history}");
    agree(testbed, &history)?;
    let copy = succeeds(testbed, "md5sum </tmp/second.img; md5sum </tmp/first.img")?;
    ensure!(copy.matches(digest).count() == 2, "not twice {digest}:\n{copy}");
    let events = succeeds(testbed, "lpar events")?;
    ensure!(!events.contains("B2000007"), "a device froze:\n{events}");
    down(testbed)
}

/// What the guest counts, by device and processor.
fn counted(history: &str, kind: &str, handler: &str) -> Result<Vec<u64>> {
    let line = history.lines().find(|line| line.contains("interrupt ") && line.trim_end().ends_with(handler));
    let line = line.with_context(|| format!("Linux counts nothing for {handler}:\n{history}"))?;
    ensure!(line.contains(kind), "not of kind {kind}: {line}");
    let counts = line.split(':').nth(1).unwrap_or_default().split_whitespace().map_while(|word| word.parse().ok());
    Ok(counts.collect())
}

/// `lpar interrupts` tells what the guest's `/proc/interrupts` tells. Two messages may become one interrupt on their
/// way, none becomes two.
fn agree(testbed: &mut Testbed, history: &str) -> Result<()> {
    let text = succeeds(testbed, "lpar interrupts red --json")?;
    let rows: Vec<InterruptRow> = serde_json::from_str(&text).with_context(|| text.clone())?;
    for (device, handler) in [("entropy", "virtio0-input"), ("first", "virtio1-req.0"), ("second", "virtio2-req.0")] {
        let counts = counted(history, "PCI-MSI", handler)?;
        let taken: u64 = counts.iter().sum();
        let row = rows.iter().find(|row| row.device.as_str() == device && row.vector == 1);
        let row = row.with_context(|| format!("{device} has no vector 1:\n{text}"))?;
        ensure!(row.state == SourceState::Enabled && row.partition.as_str() == "red", "{row:?}");
        ensure!(taken > 0 && row.delivered >= taken, "{device}: {taken} interrupts taken of {row:?}");
        ensure!(row.timed > 0 && row.timed <= row.delivered, "none of its interrupts was timed: {row:?}");
        if device == "entropy" {
            // The guest moved it from processor 0 to 1, and took some on each.
            ensure!(counts.iter().all(|count| *count > 0) && row.processor == Some(1), "{counts:?} {row:?}");
        }
    }
    // Pins of the I/O APIC, by the names that Linux gives to what is behind them.
    for (device, pin, handler) in [("console", 4, "ttyS0"), ("power", 9, "acpi")] {
        let taken: u64 = counted(history, "IO-APIC", handler)?.iter().sum();
        let row = rows.iter().find(|row| row.device.as_str() == device && row.slot == 0 && row.vector == pin);
        let row = row.with_context(|| format!("there is no pin {pin}:\n{text}"))?;
        ensure!(row.state == SourceState::Enabled && row.interrupt.is_some(), "{row:?}");
        ensure!(row.delivered >= taken && (device != "console" || taken > 0), "{taken} interrupts taken of {row:?}");
    }
    let numbers: BTreeSet<u32> = rows.iter().map(|row| row.source).collect();
    ensure!(numbers.len() == rows.len(), "two sources have one number:\n{text}");
    Ok(())
}
