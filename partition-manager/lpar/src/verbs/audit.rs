//! `audit`: whether the host is as the frame divides it.

mod page;

use super::{json, print};
use crate::arguments::Common;
use crate::failure::{Failure, Outcome, refuse};
use crate::show::{Table, plain};
use crate::{host, roots, whole};
use anyhow::Context;
use frame::audit::{AuditReport, Finding, Verdict};
use frame::root::Root;
use std::fmt::Write;
use std::io::IsTerminal;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longest look.
const LONGEST: Duration = Duration::from_secs(3600);
/// What a look may take besides its time.
const BESIDES: Duration = Duration::from_secs(60);
/// How often a look says how far it is.
const SAY: Duration = Duration::from_secs(1);

/// `lpar audit`.
///
/// # Errors
/// When no frame answers, the host cannot be looked at, or something is broken.
pub fn audit(common: &Common, time: Duration, page: Option<&Path>) -> Outcome {
    if time.is_zero() || time > LONGEST {
        refuse!("an audit looks for 1ms to 1h, such as --for 10s");
    }
    let report = look(&roots::running(common)?, time)?;
    if let Some(path) = page {
        whole::write(path, page::html(&report).as_bytes(), "report")?;
    }
    if common.json {
        json(&report)?;
    } else {
        print(&text(&report))?;
        if let Some(path) = page {
            print(&format!("\nall figures are in {}\n", path.display()))?;
        }
    }
    if report.verdict == Verdict::Broken { Err(Failure::Said) } else { Ok(()) }
}

/// Has the partition manager's program look: it knows the host, and needs no running manager's time for it.
fn look(root: &Root, time: Duration) -> Outcome<AuditReport> {
    let manager = host::binary("partition-manager")?;
    let mut command = Command::new(&manager);
    command.args(["audit", "--milliseconds", &time.as_millis().to_string(), "--run"]).arg(&root.run);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.with_context(|| format!("cannot run {}", manager.display()))?;
    let (sender, receiver) = channel();
    // Its answer is longer than what a pipe holds: it is read while it is waited for.
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let (begin, terminal) = (Instant::now(), std::io::stderr().is_terminal() && time > SAY);
    if terminal {
        crate::failure::say!("looking for {} s", time.as_secs());
    }
    let output = loop {
        match receiver.recv_timeout(SAY) {
            Ok(output) => break output.context("the audit cannot be waited for")?,
            Err(RecvTimeoutError::Timeout) if begin.elapsed() < time + BESIDES => {
                if terminal {
                    let (now, all) = (begin.elapsed().min(time).as_secs(), time.as_secs());
                    crate::failure::say!("\x1b[A\x1b[2Klooked for {now} of {all} s");
                }
            }
            Err(_) => refuse!("the audit did not end"),
        }
    };
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        refuse!("the frame cannot be audited: {}", reason.trim().trim_start_matches("error: "));
    }
    let report = serde_json::from_slice(&output.stdout);
    Ok(report.with_context(|| format!("the answer of {} cannot be read", manager.display()))?)
}

fn text(report: &AuditReport) -> String {
    let AuditReport { frame, seconds, verdict, host, partitions } = report;
    let mut out = format!("frame {frame}, looked at for {seconds:.1} s: {verdict}\n\n");
    let columns =
        ["partition", "mode", "cpus", "verdict", ">ran ms", ">others ms", ">interrupts", ">stolen ms", ">exits"];
    let mut table = Table::new(&columns);
    for one in partitions {
        let figures = &one.figures;
        table.row([
            one.name.to_string(),
            one.mode.clone(),
            one.cpus.to_string(),
            one.verdict.to_string(),
            format!("{:.1}", figures.ran_ms),
            format!("{:.1}", figures.strangers_ms),
            figures.interrupts.to_string(),
            figures.steal_ms.to_string(),
            figures.exits.values().sum::<u64>().to_string(),
        ]);
    }
    // Writing into a string cannot fail.
    let _ = write!(out, "{table}");
    let all = partitions.iter().map(|one| (one.name.as_str(), &one.findings)).chain([("the host", host)]);
    for (whose, findings) in all.filter(|(_, findings)| !findings.is_empty()) {
        let _ = writeln!(out, "\n{whose}:");
        for Finding { verdict, what, remedy } in findings {
            let _ = writeln!(out, "  {verdict:<6}  {}\n          -> {}", plain(what), plain(remedy));
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use frame::audit::{Figures, PartitionAudit, Resident};
    use frame::cpuset::CpuSet;
    use frame::name::Name;

    /// A report with something of everything.
    pub(crate) fn report() -> AuditReport {
        let finding = |verdict, what: &str| Finding { verdict, what: what.into(), remedy: "mend <it>".into() };
        let partition = |name: &str, verdict, findings| PartitionAudit {
            name: Name::new(name).unwrap(),
            verdict,
            mode: "dedicated".into(),
            cpus: CpuSet::parse("2-3").unwrap(),
            findings,
            figures: Figures {
                threads: 4,
                ran_ms: 1500.0,
                involuntary: 3,
                faults: 9,
                strangers: 2,
                strangers_ms: 20.5,
                interrupts: 7,
                steal_ms: 30,
                memory: vec![Resident { node: 0, page: 4096, bytes: 64 << 20 }],
                exits: [("halt".to_owned(), 100), ("io".to_owned(), 10)].into(),
            },
        };
        let partitions = vec![
            partition("db", Verdict::Broken, vec![finding(Verdict::Broken, "2 tasks ran: x\x1b[2J (7)")]),
            partition("web", Verdict::Holds, vec![]),
        ];
        AuditReport::new(Name::new("rack").unwrap(), 1.0, vec![finding(Verdict::Weak, "KSM merges")], partitions)
    }

    #[test]
    fn the_text_names_verdicts_reasons_and_remedies_and_moves_no_cursor() {
        let text = text(&report());
        assert!(text.starts_with("frame rack, looked at for 1.0 s: broken\n"), "{text}");
        assert!(text.contains("\ndb:\n  broken  2 tasks ran: x?[2J (7)\n          -> mend <it>\n"), "{text}");
        assert!(text.contains("\nthe host:\n  weak    KSM merges\n"), "{text}");
        assert!(!text.contains("\nweb:") && !text.contains('\x1b'), "{text}");
    }
}
