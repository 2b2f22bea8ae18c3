//! What a picture of a plan says beside its cells: who is who, what it costs, what is wanting.

use super::ink::Line;
use super::marks::{ANOTHER, Mark, Paint, SEVERAL};
use super::scene::{Owner, Scene};
use crate::show::size;
use frame::inventory::PAGE;
use frame::plan::{Backing, Finding, PartitionPlan, Plan};
use frame::units::Units;
use std::collections::BTreeMap;

/// Most findings that are told one by one.
const MOST_FINDINGS: usize = 20;
/// What stands where text was cut.
const CUT: &str = "..";
/// Columns of a table that give way when it is too wide: name, where it runs, nodes.
const FLEXIBLE: [usize; 3] = [0, 4, 7];
/// A column gives way no further than this.
const NARROWEST: usize = 8;

/// The values of one partition, as people read them.
#[must_use]
pub fn values(partition: &PartitionPlan, block: u64) -> [String; 9] {
    let on = match &partition.backing {
        Backing::Dedicated => format!("CPUs {}", partition.cpus),
        Backing::Shared { pool, .. } => format!("pool {pool}"),
    };
    let mut pages: Vec<u64> = partition.memory.iter().map(|extent| extent.pages).collect();
    let mut nodes: Vec<u32> = partition.memory.iter().map(|extent| extent.node).collect();
    pages.sort_unstable();
    pages.dedup();
    nodes.sort_unstable();
    nodes.dedup();
    [
        partition.name.to_string(),
        partition.id.to_string(),
        partition.processors.len().to_string(),
        partition.units().to_string(),
        on,
        size(partition.memory_bytes(block)),
        pages.into_iter().map(size).collect::<Vec<_>>().join("+"),
        nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        partition.score.to_string(),
    ]
}

/// The heads of [`values`], and whether a column is aligned to the right.
pub const HEADS: [(&str, bool); 9] = [
    ("partition", false),
    ("id", true),
    ("vcpus", true),
    ("units", true),
    ("on", false),
    ("memory", true),
    ("pages", true),
    ("node", false),
    ("score", true),
];

/// The table of partitions with their marks, at most `width` columns wide; all of them, or those with a letter
/// and a line for the others together.
#[must_use]
pub fn partitions(scene: &Scene<'_>, width: usize, all: bool) -> Vec<Line> {
    let block = scene.plan.memory_block;
    let order: Vec<usize> =
        if all { (0..scene.plan.partitions.len()).collect() } else { scene.marks.listed().to_vec() };
    let picked = order.iter().filter_map(|at| Some((*at, values(scene.plan.partitions.get(*at)?, block))));
    let rows: Vec<(usize, [String; 9])> = picked.collect();
    let head = HEADS.map(|(name, _)| name.to_owned());
    let mut widths = [0usize; 9];
    for row in std::iter::once(&head).chain(rows.iter().map(|(_, row)| row)) {
        for (wide, cell) in widths.iter_mut().zip(row) {
            *wide = (*wide).max(cell.chars().count());
        }
    }
    shrink(&mut widths, width.saturating_sub(2));
    let draw = |mark: Option<Mark>, row: &[String; 9], paint: Paint| {
        let mut line = Line::default();
        match mark {
            Some(mark) => line.mark(mark),
            None => line.push(Paint::Plain, " "),
        }
        for ((cell, wide), (_, right)) in row.iter().zip(widths).zip(HEADS) {
            let cell = cut(cell, wide);
            let cell = if right { format!("{cell:>wide$}") } else { format!("{cell:wide$}") };
            line.push(Paint::Plain, if line.width() == 1 { " " } else { "  " });
            line.push(paint, &cell);
        }
        line
    };
    let mut lines = vec![draw(None, &head, Paint::Strong)];
    for (at, row) in &rows {
        lines.push(draw(Some(scene.marks.of(Owner::Partition(*at))), row, Paint::Plain));
    }
    let rest = scene.plan.partitions.len() - rows.len();
    if rest > 0 {
        let others = || scene.plan.partitions.iter().enumerate().filter(|(at, _)| !scene.marks.is_listed(*at));
        let processors: usize = others().map(|(_, one)| one.processors.len()).sum();
        let units = others().fold(0u64, |sum, (_, one)| sum + u64::from(one.units().thousandths()));
        let bytes = others().fold(0u64, |sum, (_, one)| sum.saturating_add(one.memory_bytes(block)));
        let mut line = Line::default();
        line.push(Paint::Plain, &format!("{ANOTHER} and {rest} more: {processors} virtual processors, "));
        line.push(Paint::Plain, &format!("{}.{:02} units, {}", units / 1_000, units / 10 % 100, size(bytes)));
        lines.extend(fold(&line_text(&line), width, 2));
    }
    lines
}

fn line_text(line: &Line) -> String {
    line.show(super::Ink::Plain)
}

/// Takes columns from the widest of those that may give way until the table fits.
fn shrink(widths: &mut [usize; 9], width: usize) {
    let total = |widths: &[usize; 9]| widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
    while total(widths) > width {
        let widest = FLEXIBLE.iter().copied().max_by_key(|at| widths.get(*at).copied().unwrap_or(0));
        match widest.and_then(|at| widths.get_mut(at)) {
            Some(wide) if *wide > NARROWEST => *wide -= 1,
            _ => return,
        }
    }
}

fn cut(text: &str, wide: usize) -> String {
    if text.chars().count() <= wide {
        return text.to_owned();
    }
    let kept: String = text.chars().take(wide.saturating_sub(CUT.len())).collect();
    kept + CUT
}

/// Breaks text at blanks into lines of at most `width` columns; all but the first begin with `indent` blanks.
#[must_use]
pub fn fold(text: &str, width: usize, indent: usize) -> Vec<Line> {
    let width = width.max(indent + 8);
    let mut lines: Vec<String> = vec![String::new()];
    let mut fresh = true;
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        while let Some(line) = lines.last_mut() {
            let room = width.saturating_sub(line.chars().count() + usize::from(!fresh));
            if word.len() <= room {
                line.push_str(if fresh { "" } else { " " });
                line.extend(&word);
                fresh = false;
                break;
            }
            if fresh {
                // A word longer than a line.
                line.extend(word.drain(..room.min(word.len())));
            }
            lines.push(" ".repeat(indent));
            fresh = true;
        }
    }
    lines.iter().map(|line| Line::of(line)).collect()
}

/// The glyphs that are on the picture and stand for no partition, in words.
#[must_use]
pub fn legend(scene: &Scene<'_>, drawn: &[Mark], width: usize) -> Vec<Line> {
    let has = |glyph: char| drawn.iter().any(|mark| mark.glyph == glyph);
    let of = |owner: Owner| scene.marks.of(owner);
    let mut items: Vec<(Mark, String)> = Vec::new();
    for pool in &scene.pools {
        let mark = of(Owner::Pool(pool.at));
        // Pools past the ninth have one glyph.
        if has(mark.glyph) && items.iter().all(|(one, _)| *one != mark) {
            items.push((
                mark,
                if mark.glyph == '#' { "other pools".to_owned() } else { scene.words(Owner::Pool(pool.at)) },
            ));
        }
    }
    let idle = drawn.iter().find(|mark| mark.glyph == '-').copied();
    items.extend(idle.map(|mark| (mark, "idle sibling of a core that is not shared".to_owned())));
    if drawn.iter().any(|mark| mark.glyph.is_ascii_lowercase()) {
        let mark = Mark { glyph: 'a', paint: Paint::Partition(0) };
        items.push((mark, "small letter: a core of A with an idle sibling".to_owned()));
    }
    for (owner, words) in [
        (Owner::Host, "the host's own"),
        (Owner::Guarded, "guarded: deconfigured"),
        (Owner::Nobody, "free"),
        (Owner::Outside, "not of this frame"),
    ] {
        if has(of(owner).glyph) {
            items.push((of(owner), words.to_owned()));
        }
    }
    if has(ANOTHER) {
        items.push((Mark { glyph: ANOTHER, paint: Paint::Plain }, "a partition without a letter".to_owned()));
    }
    if has(SEVERAL) {
        items.push((Mark { glyph: SEVERAL, paint: Paint::Strong }, "several owners in one cell".to_owned()));
    }
    let mut lines: Vec<Line> = Vec::new();
    let mut line = Line::default();
    for (mark, words) in items {
        let wide = words.chars().count() + 2;
        if line.width() > 0 && line.width() + 3 + wide > width {
            lines.push(std::mem::take(&mut line));
        }
        line.push(Paint::Plain, if line.width() > 0 { "   " } else { "" });
        line.mark(mark);
        line.push(Paint::Plain, &format!(" {words}"));
    }
    if line.width() > 0 {
        lines.push(line);
    }
    lines
}

/// What the host pays, in words: each item over all partitions, and the sum.
#[must_use]
pub fn overhead(scene: &Scene<'_>) -> String {
    let mut items: BTreeMap<&str, u64> = BTreeMap::new();
    let mut sum = 0u64;
    for item in &scene.plan.overhead {
        let place = items.entry(item.what.as_ref()).or_default();
        *place = place.saturating_add(item.bytes);
        sum = sum.saturating_add(item.bytes);
    }
    let mut items: Vec<(&str, u64)> = items.into_iter().collect();
    items.sort_by_key(|&(what, bytes)| (std::cmp::Reverse(bytes), what));
    let words: Vec<String> = items.iter().map(|(what, bytes)| format!("{what} {}", size(*bytes))).collect();
    match words.is_empty() {
        true => "overhead: none".to_owned(),
        false => format!("overhead, beside the partitions' own memory: about {} ({})", size(sum), words.join(", ")),
    }
}

/// Findings, each in a paragraph, the first of many.
#[must_use]
pub fn findings(findings: &[Finding], width: usize) -> Vec<Line> {
    let mut lines: Vec<Line> =
        findings.iter().take(MOST_FINDINGS).flat_map(|finding| fold(&format!("  - {finding}"), width, 4)).collect();
    if findings.len() > MOST_FINDINGS {
        lines.push(Line::of(&format!("  - and {} more; --json has them all", findings.len() - MOST_FINDINGS)));
    }
    lines
}

/// What guard records take out, in words; empty when they take out nothing.
#[must_use]
pub fn guarded(scene: &Scene<'_>) -> String {
    let plan = scene.plan;
    let mut parts = Vec::new();
    if !plan.guarded.is_empty() {
        parts.push(format!("CPUs {}", plan.guarded));
    }
    for extent in plan.guarded_memory.iter().take(MOST_FINDINGS) {
        let bytes = extent.blocks.saturating_mul(plan.memory_block);
        parts.push(format!("{} in {} on node {}", size(bytes), pages(extent.pages), extent.node));
    }
    if parts.is_empty() { String::new() } else { format!("guarded, which is not used: {}", parts.join(", ")) }
}

/// Who runs already and keeps what it has, in words.
#[must_use]
pub fn holders(plan: &Plan) -> String {
    let named: Vec<&str> = plan.holders.iter().take(MOST_FINDINGS).map(|name| name.as_str()).collect();
    let more = plan.holders.len() - named.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("activated before, and as they were: {}{more}", named.join(", "))
}

/// How many findings there are by rule: `affinity 3, idle-sibling 1`.
#[must_use]
pub fn rules(findings: &[Finding]) -> String {
    let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in findings {
        *rules.entry(finding.rule.as_ref()).or_default() += 1;
    }
    rules.iter().map(|(rule, count)| format!("{rule} {count}")).collect::<Vec<_>>().join(", ")
}

/// A page size in words.
#[must_use]
pub fn pages(bytes: u64) -> String {
    if bytes == PAGE { "4KiB pages".to_owned() } else { format!("{} pages", size(bytes)) }
}

/// Units of a number of CPUs.
#[must_use]
pub fn whole(cpus: usize) -> Units {
    Units::whole(u32::try_from(cpus).unwrap_or(u32::MAX))
}
