//! The results as text: a table of ratios first, then what is no ratio.

use crate::Results;
use crate::devices::DeviceFigure;
use crate::measure::StopFigure;
use crate::memory::MemoryFigure;
use crate::modes::ModeFigure;
use crate::scale::Scale;
use crate::statistics::Figure;
use crate::storm::StormFigure;
use std::fmt::Write;

const fn verdict(held: bool) -> &'static str {
    if held { "held" } else { "NOT HELD" }
}

/// All of it. Writing into a string cannot fail.
#[must_use]
pub fn text(results: &Results) -> String {
    let mut out = String::new();
    figures(&mut out, &results.figures);
    stops(&mut out, &results.stops);
    memory(&mut out, &results.memory);
    for race in &results.races {
        let _ = writeln!(
            out,
            "{}: {} {:.2}, the quickest other ({}) {:.2}: {}",
            race.name,
            race.subject,
            race.own,
            race.quickest,
            race.other,
            verdict(race.holds())
        );
    }
    devices(&mut out, &results.devices);
    modes(&mut out, &results.modes);
    if results.races.is_empty() && results.devices.is_empty() && !results.memory.is_empty() {
        out.push_str("no other monitor was found to compare with (--peer NAME=PATH names one)\n");
    }
    if let Some(one) = &results.storm {
        storm(&mut out, one);
    }
    if let Some(all) = &results.scale {
        scale(&mut out, all);
    }
    out
}

fn figures(out: &mut String, figures: &[Figure]) {
    let mut last = "";
    for figure in figures {
        if figure.name != last {
            let _ = write!(out, "{}{}, {}", if last.is_empty() { "" } else { "\n" }, figure.name, figure.unit);
            let _ = writeln!(
                out,
                "; the floor to itself: {:.3} at p50, {:.3} at p99\n  {:<18}{:>7}{:>11}{:>11}{:>9}{:>17}{:>9}{:>9}",
                figure.noise_p50,
                figure.noise_p99,
                "",
                "n",
                "p50",
                "p99",
                "ratio",
                "9 in 10 between",
                "at p99",
                "at most"
            );
            let n = figure.samples;
            let _ =
                writeln!(out, "  {:<18}{n:>7}{:>11.2}{:>11.2}{:>9}", "floor", figure.floor_p50, figure.floor_p99, 1);
            last = &figure.name;
        }
        let promised = figure
            .promised
            .map_or_else(|| format!("{:>9}", "-"), |promised| format!("{promised:>9.2}  {}", verdict(figure.holds())));
        let (low, high) = figure.ratio_between;
        let _ = writeln!(
            out,
            "  {:<18}{:>7}{:>11.2}{:>11.2}{:>9.3}{:>17}{:>9.3}{promised}",
            figure.subject,
            figure.samples,
            figure.p50,
            figure.p99,
            figure.ratio_p50,
            format!("{low:.3} - {high:.3}"),
            figure.ratio_p99,
        );
    }
}

fn stops(out: &mut String, stops: &[StopFigure]) {
    if !stops.is_empty() {
        let _ = writeln!(out, "\norder to stop to final record, ms");
        let _ = writeln!(out, "  {:<38}{:>9}{:>9}{:>9}{:>9}", "guest", "p50", "p99", "longest", "at most");
    }
    for stop in stops {
        let _ = writeln!(
            out,
            "  {:<38}{:>9.2}{:>9.2}{:>9.2}{:>9.0}  {}",
            stop.guest,
            stop.p50_ms,
            stop.p99_ms,
            stop.longest_ms,
            stop.promised_ms,
            verdict(stop.p99_ms <= stop.promised_ms)
        );
    }
}

fn memory(out: &mut String, all: &[MemoryFigure]) {
    if !all.is_empty() {
        let _ = writeln!(out, "\nmemory of one monitor process without its guest's, KiB");
    }
    for one in all {
        let promised = one.promised_kib.map_or_else(String::new, |promised| {
            format!(" of at most {promised}  {}", verdict(one.overhead_kib <= promised))
        });
        let _ = writeln!(out, "  {:<18}{:>7}{promised}", one.subject, one.overhead_kib);
        if one.promised_kib.is_some() {
            for (mapping, kib) in &one.parts {
                let _ = writeln!(out, "  {:<18}{kib:>7}  {mapping}", "");
            }
        }
    }
    if !all.is_empty() {
        out.push('\n');
    }
}

fn storm(out: &mut String, one: &StormFigure) {
    let _ =
        writeln!(out, "\ntimer interrupts beside a storm of {:.0} a second in another partition, us late", one.rate);
    let _ = writeln!(out, "  {:<18}{:>9}{:>9}{:>9}", "", "quiet", "again", "storm");
    let _ = writeln!(out, "  {:<18}{:>9.2}{:>9}{:>9.2}", "bare thread", one.bare_quiet, "", one.bare_storm);
    let _ = writeln!(out, "  {:<18}{:>9.2}{:>9.2}{:>9.2}", "partition", one.quiet, one.again, one.storm);
    let _ = writeln!(
        out,
        "  storm to quiet, less what the bare thread lost: {:.3} of at most {:.2}  {}; quiet to itself: {:.3}",
        one.ratio,
        one.promised,
        verdict(one.holds()),
        one.again / one.quiet
    );
}

fn devices(out: &mut String, figures: &[DeviceFigure]) {
    for one in figures {
        let _ = writeln!(out, "{}, {}; the partition to itself: {:.3}", one.load, one.unit, one.noise);
        let _ = writeln!(out, "  {:<22}{:>11.1}", one.subject, one.own);
        for (other, rate) in &one.others {
            let _ = writeln!(out, "  {other:<22}{rate:>11.1}");
        }
        let (low, high) = one.ratio_between;
        let _ = writeln!(
            out,
            "  to the best other: {:.3} ({low:.3} - {high:.3} in 9 of 10) of at least {:.2}  {}",
            one.ratio,
            one.promised,
            verdict(one.holds())
        );
    }
}

fn modes(out: &mut String, figures: &[ModeFigure]) {
    let mut last = "";
    for one in figures {
        if one.load != last {
            let _ = writeln!(
                out,
                "interrupts by {}\n  {:<12}{:>9}{:>13}{:>17}",
                one.load, "", "us", "to kernel", "exits of each"
            );
            last = one.load;
        }
        // Of the mode itself: its second turn.
        let again = if one.mode == "kernel" { " (to itself)" } else { "" };
        let _ =
            writeln!(out, "  {:<12}{:>9.2}{:>13.3}{:>17.2}{again}", one.mode, one.microseconds, one.ratio, one.exits);
    }
}

fn scale(out: &mut String, all: &Scale) {
    let _ = writeln!(out, "\nactivation by the number of partitions that run, ms");
    let _ = writeln!(out, "  {:>8}{:>11}{:>11}{:>22}", "running", "call p50", "call p90", "manager's processor");
    for point in &all.curve {
        let (p50, p90) = (point.activate_p50_ms, point.activate_p90_ms);
        let _ = writeln!(out, "  {:>8}{p50:>11.2}{p90:>11.2}{:>22.3}", point.running, point.manager_ms);
    }
    let _ = writeln!(
        out,
        "  last to first, of the manager's processor time: {:.2} of at most {:.2}  {}",
        all.growth,
        all.promised_growth,
        verdict(all.holds())
    );
    let _ = writeln!(
        out,
        "  lpar ls of all: {:.2} ms; lpar shutdown --immediate: {:.2} ms (p50)",
        all.list_p50_ms, all.shutdown_p50_ms
    );
    let _ = writeln!(out, "memory of one of them, KiB");
    for (what, kib) in &all.kib_each {
        let _ = writeln!(out, "  {what:<38}{kib:>9.1}");
    }
}
