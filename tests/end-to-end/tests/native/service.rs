//! `lpar service`: what an operator does for a device that froze for good, or whose interrupts storm.

use crate::TWO;
use anyhow::{Result, ensure};
use end_to_end::frame::Frame;
use serde_json::Value;

pub fn by_name() -> Result<()> {
    let more = "boot = \"diagnostics\"\nentropy = true\ninterrupt_limit = { rate = 1000, burst = 10 }";
    let text = TWO.replacen("boot = \"diagnostics\"", more, 1);
    ensure!(text != TWO, "the frame's text changed");
    let frame = Frame::up(&text)?;
    let lpar = &frame.lpar;
    lpar.wait("alpha", "Running")?;
    let rows = lpar.json("interrupts alpha")?;
    let own: Vec<&Value> = rows.as_array().into_iter().flatten().filter(|row| row["device"] == "entropy").collect();
    let quiet = |row: &&Value| row["storms"] == 0 && row["coalesced"] == 0 && row["state"] == "masked";
    ensure!(own.len() == 2 && own.iter().all(quiet), "{rows}");
    lpar.ok("service alpha entropy")?;
    // Done already is done.
    lpar.ok("service alpha entropy")?;
    let event = lpar.event("C2000003", "alpha")?;
    ensure!(event["data"]["device"] == "entropy", "{event}");
    for (command, why) in
        [("service alpha root", "it has: entropy"), ("service gamma entropy", "there is no partition gamma")]
    {
        let refused = lpar.run(command)?;
        ensure!(
            refused.status == 1 && refused.stderr.contains(why),
            "{command}: {} {}",
            refused.status,
            refused.stderr
        );
    }
    lpar.ok("shutdown alpha --immediate")?;
    let refused = lpar.run("service alpha entropy")?;
    ensure!(refused.status == 1 && refused.stderr.contains("does not run"), "{} {}", refused.status, refused.stderr);
    frame.down()
}
