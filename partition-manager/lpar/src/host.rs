//! What this host is and can do, as the partition manager sees it.

use crate::failure::{Outcome, refuse};
use anyhow::Context;
use frame::api::HostReport;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A binary of this installation: it stands beside this one.
///
/// # Errors
/// When it is not there.
pub fn binary(name: &str) -> Outcome<PathBuf> {
    let own = std::env::current_exe().context("cannot find this executable")?;
    let path = own.with_file_name(name);
    if !path.exists() {
        refuse!("{} is not there; the binaries of Bulkhead belong into one directory", path.display());
    }
    Ok(path)
}

/// Asks the host.
///
/// # Errors
/// When the partition manager cannot be run or its answer cannot be read.
pub fn report() -> Outcome<HostReport> {
    let manager = binary("partition-manager")?;
    let output = Command::new(&manager)
        .args(["probe", "--json"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", manager.display()))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        refuse!("the host cannot be examined: {}", reason.trim().trim_start_matches("error: "));
    }
    let report = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the answer of {} cannot be read", manager.display()))?;
    Ok(report)
}
