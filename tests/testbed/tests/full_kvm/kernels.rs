//! What others boot: each of Debian's stock kernels, unpacked ones, and memtest86+.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testbed::{Error, Testbed, host, install_bulkhead};

use crate::console;
use crate::harness::{Test, output, skip};

const SOON: Duration = Duration::from_secs(90);

pub const TESTS: &[Test] = &[
    ("debian_6_12_cloud_reaches_user_space", |testbed| linux(testbed, "6.12", "cloud")),
    ("debian_6_1_cloud_reaches_user_space", |testbed| long(testbed, "6.1", "cloud")),
    ("debian_6_1_standard_reaches_user_space", |testbed| long(testbed, "6.1", "standard")),
    ("debian_6_12_standard_reaches_user_space", |testbed| long(testbed, "6.12", "standard")),
    ("an_unpacked_kernel_starts_at_its_64_bit_entry", |testbed| unpacked(testbed, false)),
    ("an_unpacked_kernel_starts_by_pvh", |testbed| unpacked(testbed, true)),
    ("memtest86_plus_ends_its_first_pass", |testbed| memtest(testbed, false)),
    ("memtest86_plus_ends_its_first_pass_with_bit_fade", |testbed| {
        full_only()?;
        memtest(testbed, true)
    }),
];

fn full_only() -> Result<()> {
    match std::env::var_os("BULKHEAD_FULL") {
        Some(_) => Ok(()),
        None => Err(skip("it runs with tests/run --full only")),
    }
}

/// A kernel that only a full run boots.
fn long(testbed: &mut Testbed, version: &str, flavour: &str) -> Result<()> {
    full_only()?;
    linux(testbed, version, flavour)
}

/// Boots a stock kernel with the small initial ramdisk, and asks which kernel runs.
fn linux(testbed: &mut Testbed, version: &str, flavour: &str) -> Result<()> {
    let (kernel, initrd) = host::other_kernel(version, flavour);
    needs(testbed, &kernel)?;
    let took = up_linux(testbed, &kernel, &initrd)?;
    let seen = console::ask(testbed, "red", "echo seen=$(uname -r)")?;
    let runs = seen.first().context("no answer")?;
    ensure!(runs.starts_with(&format!("{version}.")), "another version runs: {runs}");
    ensure!(runs.contains("-cloud-") == (flavour == "cloud"), "another flavour runs: {runs}");
    println!("{version} {flavour}: user space after {:.1} s", took.as_secs_f64());
    down(testbed)
}

/// Boots a standard kernel as the ELF file that its bzImage unpacks: as it is, which has a PVH note, or with the program
/// header of its notes made void, so that Linux's 64-bit boot protocol is what is left.
fn unpacked(testbed: &mut Testbed, pvh: bool) -> Result<()> {
    needs(testbed, host::UNPACKED_KERNEL)?;
    let (_, initrd) = host::other_kernel("6.1", "standard");
    let notes = notes_header(testbed)?;
    let image = if pvh { host::UNPACKED_KERNEL } else { "/tmp/vmlinux" };
    if !pvh {
        // PT_NULL is 0 (System V ABI, chapter 5).
        let void = format!("dd if=/dev/zero of={image} bs=1 seek={notes} count=4 conv=notrunc");
        output(testbed, &format!("cp {} {image} && {void}", host::UNPACKED_KERNEL), SOON)?;
    }
    let took = up_linux(testbed, image, &initrd)?;
    // Linux's own protocol hands over the loader's number, 0xff for one that has none; on the way by PVH Linux
    // itself fills that in.
    let seen = console::ask(testbed, "red", "echo seen=$(cat /proc/sys/kernel/bootloader_type) $(uname -r)")?;
    let seen = seen.first().context("no answer")?;
    ensure!(seen.contains(" 6.1.") && seen.starts_with("255 ") != pvh, "{seen:?}");
    println!("unpacked kernel, PVH {pvh}: user space after {:.1} s, loader and version {seen}", took.as_secs_f64());
    down(testbed)?;
    if !pvh {
        output(testbed, &format!("rm {image}"), SOON)?;
    }
    Ok(())
}

/// Where the unpacked kernel's program header of kind `PT_NOTE`, 4, lies.
fn notes_header(testbed: &mut Testbed) -> Result<u64> {
    let (first, count) =
        (number(testbed, host::UNPACKED_KERNEL, 32, 8)?, number(testbed, host::UNPACKED_KERNEL, 56, 2)?);
    for at in (0..count.min(16)).map(|index| first + index * 56) {
        if number(testbed, host::UNPACKED_KERNEL, at, 4)? == 4 {
            return Ok(at);
        }
    }
    anyhow::bail!("the kernel has no notes")
}

/// The little-endian number of `bytes` bytes at `at` of a file.
fn number(testbed: &mut Testbed, path: &str, at: u64, bytes: u32) -> Result<u64> {
    let read = format!("dd if={path} bs=1 skip={at} count={bytes} 2>/dev/null | hexdump -v -e '1/1 \"%02x \"'");
    let digits = output(testbed, &read, SOON)?;
    let bytes = digits.split_whitespace().map(|byte| u64::from_str_radix(byte, 16));
    bytes.rev().try_fold(0, |all, byte| Ok(all << 8 | byte?))
}

/// Boots memtest86+ in the least memory that it has room to move in, and waits until it has passed once without an
/// error. Its last test does nothing but wait 160 s for bits to fade; without `fade` that test is left by the menu.
fn memtest(testbed: &mut Testbed, fade: bool) -> Result<()> {
    needs(testbed, host::MEMTEST)?;
    // It measures the processor's clock by the 8254; without a clock it shows nothing new.
    let boot = format!(
        "{{ kernel = \"{}\", cmdline = \"console=ttyS0,115200 nobench nopause keyboard=legacy\" }}\npit = true",
        host::MEMTEST
    );
    let start = up(testbed, "8MiB", &boot)?;
    if !fade {
        console::wait(testbed, "red", "[Bit fade test")?;
        // <F1>, then "Skip current test".
        console::enter(testbed, "red", "15")?;
    }
    let history = console::wait(testbed, "red", "Pass:  1        Errors: 0")?;
    let took = start.elapsed();
    ensure!(history.contains("Status: Pass"), "{history}");
    println!("memtest86+: first pass after {:.1} s", took.as_secs_f64());
    down(testbed)
}

/// Skips the test where the four binaries or `image` are not there.
pub fn needs(testbed: &mut Testbed, image: &str) -> Result<()> {
    if let Err(error @ Error::NotBuilt { .. }) = install_bulkhead() {
        return Err(skip(error.to_string()));
    }
    if std::env::var_os("BULKHEAD_OTHER_GUESTS").is_some_and(|value| value == "off") {
        return Err(skip("BULKHEAD_OTHER_GUESTS=off leaves other guests out"));
    }
    if !testbed.run(&format!("test -e {image}"), SOON)?.success() {
        return Err(skip(format!("there is no {image}: run tests/testbed/provision")));
    }
    Ok(())
}

/// Activates Linux in the partition `red`, and waits until it is in user space: how long that took.
fn up_linux(testbed: &mut Testbed, kernel: &str, initrd: &str) -> Result<Duration> {
    let line = "console=ttyS0 loglevel=5 name=red action=shell";
    let boot = format!("{{ kernel = \"{kernel}\", initrd = \"{initrd}\", cmdline = \"{line}\" }}");
    let start = up(testbed, "256MiB", &boot)?;
    console::wait(testbed, "red", "BULKHEAD-GUEST name=red cpus=1 reached user space")?;
    Ok(start.elapsed())
}

/// Activates the partition `red`: when that was begun.
fn up(testbed: &mut Testbed, memory: &str, boot: &str) -> Result<Instant> {
    let file = format!(
        "[frame]\nname = \"bed\"\nmemory_block = \"2MiB\"\nreserved = {{ cpus = 0, memory = \"256MiB\" }}\n\
         [[pool]]\nname = \"default\"\ncpus = 1\n[[partition]]\nname = \"red\"\n\
         processors = {{ mode = \"shared\", pool = \"default\", desired = 1, \
         units = {{ minimum = 0.4, desired = 0.8, maximum = 1.0 }}, sharing = \"uncapped\", weight = 128 }}\n\
         memory = {{ desired = \"{memory}\" }}\nboot = {boot}\n"
    );
    output(testbed, &format!("cat > /tmp/other.toml <<'FILE'\n{file}FILE"), SOON)?;
    let start = Instant::now();
    output(testbed, "lpar up /tmp/other.toml --detach", SOON)?;
    Ok(start)
}

fn down(testbed: &mut Testbed) -> Result<()> {
    output(testbed, "lpar down --immediate", SOON)?;
    Ok(())
}
