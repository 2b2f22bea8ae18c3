//! What others boot: each of Debian's stock kernels, and memtest86+.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::{Error, Testbed, host, install_bulkhead};

use crate::harness::{Test, output, skip};

/// A guest takes tens of seconds in an emulated machine's virtual machine; a busy host makes it minutes.
const LONG: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(90);

pub const TESTS: &[Test] = &[
    ("debian_6_12_cloud_reaches_user_space", |testbed| linux(testbed, "6.12", "cloud")),
    ("debian_6_1_cloud_reaches_user_space", |testbed| long(testbed, "6.1", "cloud")),
    ("debian_6_1_standard_reaches_user_space", |testbed| long(testbed, "6.1", "standard")),
    ("debian_6_12_standard_reaches_user_space", |testbed| long(testbed, "6.12", "standard")),
    ("memtest86_plus_ends_its_first_pass", memtest),
];

/// A kernel that only a full run boots.
fn long(testbed: &mut Testbed, version: &str, flavour: &str) -> Result<()> {
    if std::env::var_os("BULKHEAD_FULL").is_none() {
        return Err(skip("it runs with tests/run --full only"));
    }
    linux(testbed, version, flavour)
}

/// Boots a stock kernel with the small initial ramdisk, and asks which kernel runs.
fn linux(testbed: &mut Testbed, version: &str, flavour: &str) -> Result<()> {
    let (kernel, initrd) = host::other_kernel(version, flavour);
    let boot =
        format!("{{ kernel = \"{kernel}\", initrd = \"{initrd}\", cmdline = \"console=ttyS0 loglevel=5 name=red\" }}");
    let took = up(testbed, &kernel, "256MiB", &boot, "BULKHEAD-GUEST name=red cpus=1 reached user space")?;
    // What the shell echoes has no number in it.
    output(
        testbed,
        "(sleep 1; echo 'echo runs=$(uname -r)'; sleep 5) | timeout 30 lpar console red >/dev/null; true",
        SOON,
    )?;
    let told = history(testbed, &format!("runs={version}."))?;
    let cloud = told.lines().any(|line| line.starts_with("runs=") && line.contains("-cloud-"));
    ensure!(cloud == (flavour == "cloud"), "another kernel runs than {version} {flavour}:\n{told}");
    println!("{version} {flavour}: user space after {:.1} s", took.as_secs_f64());
    down(testbed)
}

fn memtest(testbed: &mut Testbed) -> Result<()> {
    // It measures the processor's clock by the 8254; without its clock it shows nothing new.
    let boot = format!(
        "{{ kernel = \"{}\", cmdline = \"console=ttyS0,115200 nosmp nobench nopause keyboard=legacy\" }}\npit = true",
        host::MEMTEST
    );
    let took = up(testbed, host::MEMTEST, "8MiB", &boot, "Status: Pass")?;
    println!("memtest86+: first pass after {:.1} s", took.as_secs_f64());
    down(testbed)
}

/// Activates the partition `red` and waits until its console says `text`: how long that took.
fn up(testbed: &mut Testbed, image: &str, memory: &str, boot: &str, text: &str) -> Result<Duration> {
    if let Err(error @ Error::NotBuilt { .. }) = install_bulkhead() {
        return Err(skip(error.to_string()));
    }
    if std::env::var_os("BULKHEAD_OTHER_GUESTS").is_some_and(|value| value == "off") {
        return Err(skip("BULKHEAD_OTHER_GUESTS=off leaves other guests out"));
    }
    if !testbed.run(&format!("test -e {image}"), SOON)?.success() {
        return Err(skip(format!("there is no {image}: run tests/testbed/provision")));
    }
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
    history(testbed, text)?;
    Ok(start.elapsed())
}

fn down(testbed: &mut Testbed) -> Result<()> {
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
        // A partition in error says nothing more, however long it is waited for.
        let state = output(testbed, "lpar ls -F state", SOON)?;
        ensure!(
            start.elapsed() < LONG && !state.starts_with("Error"),
            "the console has no {text:?}:\n{history}\n{}",
            output(testbed, "lpar ls; lpar events", SOON)?
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}
