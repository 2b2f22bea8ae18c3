//! The guests that are measured: a partition, and QEMU's microvm in two shapes. All boot the same kernel and initial
//! RAM disk in the same memory, read the same image, and have a tap on a bridge of their own with a link to the
//! driver. Each has its virtual processor on one CPU, and everything else of its monitor on the other.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use testbed::{Testbed, host};

/// How long one command may take.
const SOON: Duration = Duration::from_secs(120);
/// Memory of each guest, MiB.
pub const MEMORY_MIB: u64 = 256;
/// The kernel's initial RAM disk with the agent.
pub const INITRD: &str = "/guest/load.img";
/// Where the driver and the agent are.
pub const LOAD: &str = "/usr/bin/load";
/// The image that all read.
const IMAGE: &str = "/tmp/disk.img";
/// Its size, MiB.
const IMAGE_MIB: u64 = 256;
/// The name of the partition, and what it is called in the results.
pub const PARTITION: &str = "partition";

/// A shape of QEMU's microvm.
pub struct Shape {
    /// What it is called in the results.
    pub name: &'static str,
    machine: &'static str,
    transport: &'static str,
    backend: &'static str,
}

/// The usual shape, with virtio over MMIO and a pool of threads; and the one that is most like a partition.
pub const SHAPES: [Shape; 2] = [
    Shape { name: "microvm-mmio", machine: "", transport: "device", backend: "threads" },
    Shape { name: "microvm-pci", machine: ",pcie=on", transport: "pci", backend: "io_uring" },
];

/// Runs a command that must succeed, and gives what it says.
pub fn succeeds(testbed: &mut Testbed, command: &str) -> Result<String> {
    let output = testbed.run(command, SOON)?;
    ensure!(output.success(), "`{command}` exited with {}:\n{}{}", output.status, output.stdout, output.stderr);
    Ok(output.stdout)
}

fn command_line(name: &str, number: usize) -> String {
    format!("console=ttyS0 quiet mitigations=off name={name} address=10.1.{number}.2 driver=10.1.{number}.1")
}

/// A link whose one end is the driver's and whose other end, `upNUMBER`, goes to a bridge. Busybox cannot name the
/// other end; the kernel does.
fn link(testbed: &mut Testbed, number: usize) -> Result<()> {
    succeeds(
        testbed,
        &format!(
            "ip link add up{number} type veth && ip link set veth0 name far{number} && ip addr add 10.1.{number}.1/24 dev far{number} && \
             ip link set far{number} up && ip link set up{number} up"
        ),
    )?;
    Ok(())
}

/// Makes what all need: modules and the image, which is written whole.
pub fn prepare(testbed: &mut Testbed) -> Result<()> {
    succeeds(testbed, "modprobe tun && modprobe bridge && modprobe veth")?;
    // Only the link's own end answers for its address: no guest shall have a shorter way, by its bridge itself.
    succeeds(testbed, "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore")?;
    // While the others have their turns a connection idles; that shall not make its next stream begin slowly.
    succeeds(testbed, "echo 0 > /proc/sys/net/ipv4/tcp_slow_start_after_idle")?;
    // It ends the slow start early where acknowledgements come quickly, and keeps a stream slow for long then.
    succeeds(testbed, "echo 0 > /sys/module/tcp_cubic/parameters/hystart")?;
    succeeds(testbed, &format!("dd if=/dev/urandom of={IMAGE} bs=1M count={IMAGE_MIB} 2>/dev/null"))?;
    Ok(())
}

/// What is known of a guest's monitor.
pub struct Guest {
    /// Its process.
    pub pid: u32,
    /// CPUs of its virtual processor.
    pub processor: String,
    /// CPUs of all its other threads.
    pub others: String,
}

/// Starts the partition.
pub fn partition(testbed: &mut Testbed) -> Result<Guest> {
    link(testbed, 0)?;
    let file = format!(
        "[frame]\nname = \"bed\"\nmemory_block = \"2MiB\"\nreserved = {{ cpus = 0, memory = \"128MiB\" }}\n\
         [[pool]]\nname = \"io\"\ncpus = 1\n[[switch]]\nname = \"lan\"\nuplink = \"up0\"\n\
         [[partition]]\nname = \"{PARTITION}\"\nentropy = false\n\
         processors = {{ mode = \"dedicated\", desired = 1, io = \"pool:io\" }}\nmemory = {{ desired = \"{MEMORY_MIB}MiB\" }}\n\
         boot = {{ kernel = \"{}\", initrd = \"{INITRD}\", cmdline = \"{}\" }}\n\
         [[partition.disk]]\nname = \"disk\"\npath = \"{IMAGE}\"\nread_only = true\n\
         [[partition.network]]\nname = \"lan0\"\nswitch = \"lan\"\nvlan = 1\n",
        host::GUEST_KERNEL,
        command_line(PARTITION, 0)
    );
    succeeds(testbed, &format!("cat > /tmp/bed.toml <<'FILE'\n{file}FILE"))?;
    succeeds(testbed, "lpar up /tmp/bed.toml --detach")?;
    look(testbed, "$(pidof partition)", "vcpu")
}

/// Starts a microvm, with its threads where the partition `like` has them.
pub fn microvm(testbed: &mut Testbed, shape: &Shape, number: usize, like: &Guest) -> Result<Guest> {
    link(testbed, number)?;
    let (name, transport) = (shape.name, shape.transport);
    let mask =
        |cpus: &str| Ok::<_, anyhow::Error>(format!("{:x}", 1u64 << cpus.parse::<u32>().context("not one CPU")?));
    succeeds(
        testbed,
        &format!(
            "brctl addbr br{number} && echo 1 > /sys/class/net/br{number}/bridge/vlan_filtering && \
             brctl addif br{number} up{number} && ip link set br{number} up"
        ),
    )?;
    // The same offloads as a partition's adapter has: those that tap offers.
    let command = format!(
        "taskset {} qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none -cpu host -name {name},debug-threads=on \
         -M microvm,accel=kvm,pit=off,pic=off,rtc=off,isa-serial=on,auto-kernel-cmdline=off{} -smp 1 -m {MEMORY_MIB} \
         -serial file:/tmp/{name}.console -monitor none -kernel {} -initrd {INITRD} -append '{}' \
         -object iothread,id=io -drive file={IMAGE},format=raw,if=none,id=disk,readonly=on,cache=writeback,aio={} \
         -device virtio-blk-{transport},drive=disk,iothread=io \
         -netdev tap,id=lan,ifname=tap{number},script=no,downscript=no,vhost=off \
         -device virtio-net-{transport},netdev=lan,mac=02:00:00:00:00:0{number}",
        mask(&like.others)?,
        shape.machine,
        host::GUEST_KERNEL,
        command_line(name, number),
        shape.backend,
    );
    succeeds(
        testbed,
        &format!(
            "setsid {command} </dev/null >/tmp/{name}.said 2>&1 & echo $! > /tmp/{name}.pid; \
             for try in $(seq 300); do [ -e /sys/class/net/tap{number} ] && break; kill -0 $! || break; usleep 100000; done; \
             brctl addif br{number} tap{number} && ip link set tap{number} up || {{ cat /tmp/{name}.said; exit 1; }}"
        ),
    )?;
    let pid = format!("$(cat /tmp/{name}.pid)");
    succeeds(
        testbed,
        &format!(
            "for try in $(seq 300); do for task in /proc/{pid}/task/*; do \
             grep -q '^CPU 0' $task/comm && taskset -p {} ${{task##*/}} && exit 0; done; usleep 100000; done; exit 1",
            mask(&like.processor)?
        ),
    )?;
    look(testbed, &pid, "CPU 0")
}

/// Looks where the threads of process `pid` may run; that of the virtual processor has a name that begins with
/// `processor`.
fn look(testbed: &mut Testbed, pid: &str, processor: &str) -> Result<Guest> {
    let said = succeeds(
        testbed,
        &format!(
            "pid={pid}; echo $pid; for task in /proc/$pid/task/*; do \
             echo \"$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' $task/status) $(cat $task/comm)\"; done"
        ),
    )?;
    let mut lines = said.lines();
    let pid = lines.next().unwrap_or_default().trim();
    let pid = pid.parse().with_context(|| format!("there is not one process {processor}: {pid:?}"))?;
    let threads: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(' ')).collect();
    let of = |wanted: bool| {
        let mut cpus: Vec<&str> =
            threads.iter().filter(|(_, name)| name.starts_with(processor) == wanted).map(|(cpus, _)| *cpus).collect();
        cpus.sort_unstable();
        cpus.dedup();
        cpus.join(" and ")
    };
    Ok(Guest { pid, processor: of(true), others: of(false) })
}
