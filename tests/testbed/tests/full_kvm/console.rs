//! Partitions' consoles: what they said, and what is typed to them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::Testbed;

use crate::harness::output;

/// A guest takes tens of seconds in an emulated machine's virtual machine; a busy host makes it minutes.
const LONG: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(90);

/// Waits until the console's history has `text`, and gives the history.
pub fn wait(testbed: &mut Testbed, partition: &str, text: &str) -> Result<String> {
    let start = Instant::now();
    loop {
        let history = output(testbed, &format!("lpar console {partition} --history"), SOON)?;
        if history.contains(text) {
            return Ok(history);
        }
        // A partition in error says nothing more, however long it is waited for.
        let states = output(testbed, "lpar ls -F name,state", SOON)?;
        ensure!(
            start.elapsed() < LONG && !states.contains(&format!("{partition},Error")),
            "the console of {partition} has no {text:?}:\n{history}\n{}",
            output(testbed, "lpar ls; lpar events; lpar events --json", SOON)?
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Types `text` and the Enter key into the console.
pub fn enter(testbed: &mut Testbed, partition: &str, text: &str) -> Result<()> {
    // A session whose input has ended lasts until the partition is silent, which it need not become.
    let command = format!("timeout 20 lpar console {partition} <<'TYPED' >/dev/null; true\n{text}\nTYPED");
    output(testbed, &command, SOON)?;
    Ok(())
}

/// Types `commands`, one line, to a guest's shell, and gives what they print in lines that begin with `seen=`,
/// without that.
pub fn ask(testbed: &mut Testbed, partition: &str, commands: &str) -> Result<Vec<String>> {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let number = ASKED.fetch_add(1, Ordering::Relaxed);
    // What the shell echoes is not computed yet: it has a dollar sign or a backslash where an answer has none.
    enter(testbed, partition, &format!("{commands}; echo seen=end$(({number}+0))end"))?;
    let end = format!("end{number}end");
    let told = wait(testbed, partition, &format!("seen={end}"))?;
    let mut seen = Vec::new();
    for line in told.lines().filter_map(|line| line.trim_end().strip_prefix("seen=")) {
        if line == end {
            break;
        }
        if line.starts_with("end") && line.ends_with("end") {
            // That was an answer to an earlier question.
            seen.clear();
        } else if !line.contains(['$', '\\']) {
            seen.push(line.to_owned());
        }
    }
    Ok(seen)
}
