//! The audit as one page for a browser, which loads nothing.

use crate::show::size;
use frame::audit::{AuditReport, Finding, PartitionAudit, Verdict};
use std::fmt::Write;

/// Exits of one partition that are drawn, the most frequent first.
const MOST_REASONS: usize = 8;
/// Width of a bar, and of the words before it.
const BAR: f64 = 420.0;
const WORDS: f64 = 150.0;
/// Height of a row of bars.
const ROW: usize = 22;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,'DejaVu Sans',Helvetica,Arial,sans-serif;color:#1b1f24;background:#fff;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin:2.2rem 0 .4rem;border-top:1px solid #d0d7de;padding-top:1rem}\
.faint{color:#57606a}.tag{border-radius:1em;padding:.1em .7em;font-size:.8rem;font-weight:600;color:#fff;vertical-align:middle}\
.holds{background:#00805f}.weak{background:#8a5a00}.broken{background:#a40e26}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3em .6em;border-bottom:1px solid #d0d7de}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}li{margin:.4em 0}\
svg text{font-size:13px;fill:#1b1f24}.own{fill:#0072b2}.others{fill:#c04e00}.stolen{fill:#a40e26}.rest{fill:#eaeef2}\
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}h2,th,td{border-color:#3d444d}.faint{color:#9198a1}\
svg text{fill:#e6edf3}.rest{fill:#21262d}}";

/// The whole page.
#[must_use]
pub fn html(report: &AuditReport) -> String {
    let AuditReport { frame, seconds, verdict, host, partitions } = report;
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Audit of frame {frame}</title><style>{STYLE}</style>\
         <h1>Audit of frame {frame} {}</h1><p class=\"faint\">Looked at for {seconds:.1} s. <b>Holds</b>: the division is as \
         planned, and nobody may disturb it. <b>Weak</b>: somebody else may. <b>Broken</b>: something is not as it was divided.</p>",
        tag(*verdict)
    );
    out.push_str("<table><tr><th>partition<th>mode<th>CPUs<th>verdict<th class=n>threads<th class=n>faults<th class=n>involuntary switches</tr>");
    for one in partitions {
        // Writing into a string cannot fail.
        let _ = write!(
            out,
            "<tr><td><a href=\"#{0}\">{0}</a><td>{1}<td>{2}<td>{3}<td class=n>{4}<td class=n>{5}<td class=n>{6}</tr>",
            one.name,
            escaped(&one.mode),
            one.cpus,
            tag(one.verdict),
            one.figures.threads,
            one.figures.faults,
            one.figures.involuntary
        );
    }
    out.push_str("</table>");
    if !host.is_empty() {
        out.push_str("<h2>The host</h2>");
        findings(&mut out, host);
    }
    for one in partitions {
        section(&mut out, one, *seconds);
    }
    out.push_str("</html>\n");
    out
}

fn section(out: &mut String, one: &PartitionAudit, seconds: f64) {
    let figures = &one.figures;
    let _ = write!(out, "<h2 id=\"{0}\">{0} {1}</h2>", one.name, tag(one.verdict));
    findings(out, &one.findings);
    let all = (one.cpus.len() as f64 * seconds * 1e3).max(1.0);
    let steal = figures.steal_ms as f64;
    let stack = [("own", figures.ran_ms), ("others", figures.strangers_ms), ("stolen", steal)];
    // Others may run on the CPUs of a pool.
    let others = match one.mode.as_str() {
        "dedicated" => format!(" {:.1} of others that could be moved,", figures.strangers_ms),
        _ => String::new(),
    };
    let words =
        format!("time of CPUs {}: {:.0} ms of {all:.0} its own,{others} {steal:.0} stolen", one.cpus, figures.ran_ms);
    let _ = write!(
        out,
        "<p>{words}</p><svg width=\"{0}\" height=\"{ROW}\" role=\"img\" aria-label=\"{words}\">",
        WORDS + BAR
    );
    let _ = write!(out, "<rect class=\"rest\" width=\"{}\" height=\"16\"/>", WORDS + BAR);
    let mut from = 0.0;
    for (class, milliseconds) in stack {
        let width = (milliseconds / all * (WORDS + BAR)).min(WORDS + BAR - from).max(0.0);
        let _ = write!(out, "<rect class=\"{class}\" x=\"{from:.2}\" width=\"{width:.2}\" height=\"16\"/>");
        from += width;
    }
    out.push_str("</svg>");
    let mut exits: Vec<(&str, u64)> = figures.exits.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    exits.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    exits.truncate(MOST_REASONS);
    if !exits.is_empty() {
        out.push_str("<p>exits of its virtual processors</p>");
        let rows: Vec<(String, f64, String)> =
            exits.iter().map(|(reason, count)| ((*reason).to_owned(), *count as f64, count.to_string())).collect();
        bars(out, &rows);
    }
    if !figures.memory.is_empty() {
        out.push_str("<p>memory that is there, by node and page</p>");
        let row = |one: &frame::audit::Resident| {
            (format!("node {}, {}", one.node, size(one.page)), one.bytes as f64, size(one.bytes))
        };
        bars(out, &figures.memory.iter().map(row).collect::<Vec<_>>());
    }
}

fn findings(out: &mut String, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    out.push_str("<ul>");
    for Finding { verdict, what, remedy } in findings {
        let (what, remedy) = (escaped(what), escaped(remedy));
        let _ = write!(out, "<li>{} {what}<br><span class=\"faint\">{remedy}</span>", tag(*verdict));
    }
    out.push_str("</ul>");
}

/// Bars of a name, a length and a figure each, the longest over the whole width.
fn bars(out: &mut String, rows: &[(String, f64, String)]) {
    let longest = rows.iter().map(|(_, length, _)| *length).fold(1.0, f64::max);
    let _ = write!(out, "<svg width=\"{}\" height=\"{}\">", WORDS + BAR + 100.0, rows.len() * ROW);
    for (at, (name, length, figure)) in rows.iter().enumerate() {
        let (top, width) = (at * ROW, length / longest * BAR);
        let (name, figure) = (escaped(name), escaped(figure));
        let _ = write!(
            out,
            "<text y=\"{}\">{name}</text><rect class=\"own\" x=\"{WORDS}\" y=\"{top}\" width=\"{width:.2}\" height=\"16\"/>\
             <text x=\"{:.2}\" y=\"{}\">{figure}</text>",
            top + 13,
            WORDS + width + 6.0,
            top + 13
        );
    }
    out.push_str("</svg>");
}

fn tag(verdict: Verdict) -> String {
    format!("<span class=\"tag {verdict}\">{verdict}</span>")
}

/// Text as a page shows it: names of tasks are whatever somebody called them.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in crate::show::plain(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_runs_nothing_and_shows_what_it_was_given() {
        let mut report = super::super::tests::report();
        report.partitions[0].findings[0].what = "<script>alert('x')</script> & \"y\"".into();
        let page = html(&report);
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;y&quot;"), "{page}");
        for forbidden in ["<script", "http:", "https:", "url(", "@import", "src="] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert!(page.contains("mend &lt;it&gt;") && page.contains("64MiB") && page.contains("KSM merges"));
        // Halves of the two CPUs' second: 1500 of 2000 ms are three quarters of the bar.
        assert!(page.contains("<rect class=\"own\" x=\"0.00\" width=\"427.50\""), "{page}");
    }

    #[test]
    fn a_frame_without_partitions_has_a_page() {
        let report = AuditReport::new(frame::name::Name::new("f").unwrap(), 0.0, vec![], vec![]);
        assert!(html(&report).contains("tag holds"));
    }
}
