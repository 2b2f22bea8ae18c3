//! The emulated machine itself: what a host must have before a partition can run on it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::{BINARIES, Error, Testbed, host, install_bulkhead};

use crate::harness::{self, Test, skip};

/// Software emulation on a busy machine is slow; what hangs is found by the deadline of the whole run.
const SOON: Duration = Duration::from_secs(60);

pub const TESTS: &[Test] = &[
    ("kvm_amd_serves_dev_kvm", kvm_amd_serves_dev_kvm),
    ("cgroup_v2_has_the_controllers_and_obeys", cgroup_v2_has_the_controllers_and_obeys),
    ("there_is_a_stock_kernel_and_a_ramdisk_for_partitions", there_is_a_stock_kernel_and_a_ramdisk_for_partitions),
    ("the_four_binaries_start", the_four_binaries_start),
    ("status_and_both_outputs_come_back", status_and_both_outputs_come_back),
    ("a_long_output_is_cut", a_long_output_is_cut),
    ("a_command_past_its_deadline_is_ended_with_all_it_started", a_command_past_its_deadline_is_ended),
    ("modules_for_switches_can_be_loaded", modules_for_switches_can_be_loaded),
];

fn output(testbed: &mut Testbed, command: &str) -> Result<String> {
    harness::output(testbed, command, SOON)
}

fn kvm_amd_serves_dev_kvm(testbed: &mut Testbed) -> Result<()> {
    let device = output(testbed, "stat -c '%F %t %T' /dev/kvm")?;
    ensure!(device.trim() == "character special file a e8", "/dev/kvm is a {device}");
    let modules = output(testbed, "lsmod")?;
    ensure!(modules.lines().any(|line| line.starts_with("kvm_amd ")), "kvm_amd is not loaded:\n{modules}");
    let paging = output(testbed, "cat /sys/module/kvm_amd/parameters/npt")?;
    ensure!(matches!(paging.trim(), "Y" | "1"), "nested paging is off: {paging}");
    Ok(())
}

fn cgroup_v2_has_the_controllers_and_obeys(testbed: &mut Testbed) -> Result<()> {
    let enabled = output(testbed, "cat /sys/fs/cgroup/cgroup.subtree_control")?;
    for controller in ["cpu", "cpuset", "memory", "pids"] {
        ensure!(enabled.split_whitespace().any(|one| one == controller), "no {controller} in {enabled}");
    }
    let set = "mkdir /sys/fs/cgroup/probe && cd /sys/fs/cgroup/probe && echo '5000 10000' >cpu.max && \
               echo 1 >cpuset.cpus && echo 16M >memory.max && echo 9 >pids.max && \
               cat cpu.max cpuset.cpus.effective memory.max pids.max; cd /; rmdir /sys/fs/cgroup/probe";
    let read_back = output(testbed, set)?;
    ensure!(read_back == "5000 10000\n1\n16777216\n9\n", "read back: {read_back}");
    Ok(())
}

fn there_is_a_stock_kernel_and_a_ramdisk_for_partitions(testbed: &mut Testbed) -> Result<()> {
    // Linux, Documentation/x86/boot.rst: "HdrS" at offset 0x202 marks a bzImage.
    let magic = output(testbed, &format!("dd if={} bs=1 skip=514 count=4 2>/dev/null", host::GUEST_KERNEL))?;
    ensure!(magic == "HdrS", "the kernel has {magic:?} where HdrS should be");
    let listing = output(testbed, &format!("cpio -t <{} 2>/dev/null", host::GUEST_INITRD))?;
    for file in ["init", "bin/busybox", "dev/console"] {
        ensure!(listing.lines().any(|line| line == file), "no {file} in the ramdisk:\n{listing}");
    }
    Ok(())
}

fn the_four_binaries_start(testbed: &mut Testbed) -> Result<()> {
    if let Err(error @ Error::NotBuilt { .. }) = install_bulkhead() {
        return Err(skip(error.to_string()));
    }
    for binary in BINARIES {
        // 126 and 127: cannot be run, not found (also a library or the loader).
        let ran = testbed.run(&format!("{binary} --version"), SOON)?;
        ensure!(!matches!(ran.status, 126 | 127), "{binary}: {} {}", ran.status, ran.stderr);
    }
    Ok(())
}

fn status_and_both_outputs_come_back(testbed: &mut Testbed) -> Result<()> {
    let ran = testbed.run("printf 'a\\nb'; printf 'it is \"so\"' >&2; exit 7", SOON)?;
    ensure!(ran.status == 7 && ran.stdout == "a\nb" && ran.stderr == "it is \"so\"", "{ran:?}");
    Ok(())
}

fn a_long_output_is_cut(testbed: &mut Testbed) -> Result<()> {
    let ran = testbed.run("dd if=/dev/zero bs=1M count=3 2>/dev/null | tr '\\0' x", SOON)?;
    ensure!(ran.success() && ran.stdout.len() == testbed::agent::OUTPUT_LIMIT, "{} bytes", ran.stdout.len());
    Ok(())
}

fn a_command_past_its_deadline_is_ended(testbed: &mut Testbed) -> Result<()> {
    let start = Instant::now();
    let ran = testbed.run("sleep 98765 & sleep 98765", Duration::from_secs(1));
    ensure!(matches!(ran, Err(Error::Deadline { .. })), "{ran:?}");
    ensure!(start.elapsed() >= Duration::from_secs(1), "it was ended after {:?}", start.elapsed());
    let left = output(testbed, "ps")?;
    ensure!(left.contains("ps") && !left.contains("sleep 98765"), "left running: {left}");
    Ok(())
}

fn modules_for_switches_can_be_loaded(testbed: &mut Testbed) -> Result<()> {
    output(testbed, "modprobe tun && modprobe bridge && modprobe veth && [ -c /dev/net/tun ]")?;
    output(testbed, "ip link add probe type bridge && ip link set probe up && ip link del probe")?;
    Ok(())
}
