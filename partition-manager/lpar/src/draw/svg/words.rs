//! What the document says in words: the summary, the legend, the table of partitions, the findings.

use super::canvas::{Area, Canvas, Fill};
use super::nodes::fill;
use super::{INNER, MARGIN};
use crate::draw::marks::{ANOTHER, Mark, Paint};
use crate::draw::scene::{Owner, Scene};
use crate::draw::tables::{HEADS, guarded, holders, overhead, values};
use crate::show::size;
use frame::plan::Finding;
use frame::units::Units;

/// Height of a line of text.
const LINE: f64 = 19.0;
/// Characters of a line over the whole width.
const CHARACTERS: usize = 160;
/// Most findings of a kind that are told one by one.
const MOST_FINDINGS: usize = 20;
/// Where each column of the table of partitions begins, or ends when it is aligned to the right; and how many
/// characters it may have.
const COLUMNS: [(f64, usize); 9] =
    [(28.0, 34), (330.0, 6), (392.0, 6), (466.0, 9), (486.0, 54), (960.0, 10), (1030.0, 12), (1048.0, 10), (INNER, 5)];

/// One line or more of text; gives where the next begins.
pub fn paragraph(canvas: &mut Canvas, mut y: f64, text: &str) -> f64 {
    for line in crate::draw::tables::fold(text, CHARACTERS, 0) {
        canvas.text(MARGIN, y, "", &line.show(crate::draw::Ink::Plain));
        y += LINE;
    }
    y
}

/// Who has how many CPUs, in a sentence.
#[must_use]
pub fn summary(scene: &Scene<'_>) -> String {
    type Kind = (&'static str, fn(Owner) -> bool);
    let kinds: [Kind; 7] = [
        ("dedicated", |owner| matches!(owner, Owner::Partition(_))),
        ("idle siblings", |owner| matches!(owner, Owner::Idle(_))),
        ("in pools", |owner| matches!(owner, Owner::Pool(_))),
        ("the host's own", |owner| owner == Owner::Host),
        ("guarded", |owner| owner == Owner::Guarded),
        ("unassigned", |owner| owner == Owner::Nobody),
        ("not of this frame", |owner| owner == Owner::Outside),
    ];
    let counted = kinds.iter().map(|(what, which)| (scene.count(which), what)).filter(|(count, _)| *count > 0);
    let counted: Vec<String> = counted.map(|(count, what)| format!("{count} {what}")).collect();
    let score = scene.plan.score.map_or_else(String::new, |score| format!(", affinity score {score} of 100"));
    format!("{} partitions{score}. CPUs: {}", scene.plan.partitions.len(), counted.join(", "))
}

/// What the patterns mean, from `y` on; gives where it ends.
pub fn legend(canvas: &mut Canvas, scene: &Scene<'_>, y: f64) -> f64 {
    let mut items: Vec<(Fill, &str)> = Vec::new();
    let idle = scene.owners.values().copied().find(|owner| matches!(owner, Owner::Idle(_)));
    items.extend(idle.map(|owner| (fill(scene, owner), "idle sibling of a core that is not shared")));
    let has = |owner: Owner| scene.owners.values().any(|one| *one == owner);
    let in_memory = |owner: Owner| scene.memory.iter().any(|one| one.shares.iter().any(|(other, _)| *other == owner));
    for (owner, words) in [
        (Owner::Host, "the host's own, or in use by it"),
        (Owner::Guarded, "guarded: deconfigured"),
        (Owner::Nobody, "free"),
        (Owner::Outside, "not of this frame"),
    ] {
        if has(owner) || in_memory(owner) {
            items.push((fill(scene, owner), words));
        }
    }
    if scene.marks.unlisted() > 0 {
        let mark = Mark { glyph: ANOTHER, paint: Paint::Partition(7) };
        items.push((Fill::new(mark, 0), "partition without a letter, in any colour; point at it to see its name"));
    }
    let mut x = MARGIN;
    for (fill, words) in items {
        canvas.cell(Area(x, y, 18.0, 14.0), fill, words);
        canvas.text(x + 24.0, y + 12.0, "small", words);
        x += 24.0 + words.chars().count() as f64 * 6.3 + 22.0;
    }
    y + 24.0
}

/// The table of partitions from `y` on; gives where it ends.
pub fn partitions(canvas: &mut Canvas, scene: &Scene<'_>, y: f64) -> f64 {
    let block = scene.plan.memory_block;
    let mut y = y + 12.0;
    canvas.text(MARGIN, y, "h2", "Partitions");
    y += LINE + 2.0;
    let draw = |canvas: &mut Canvas, row: &[String], y: f64, class: &str| {
        for ((text, (at, most)), (_, right)) in row.iter().zip(COLUMNS).zip(HEADS) {
            let mut shown: String = text.chars().take(most).collect();
            if shown.len() < text.len() {
                shown.truncate(shown.len().saturating_sub(2));
                shown.push_str("..");
            }
            let class = if right { format!("{class} end") } else { class.to_owned() };
            canvas.text(MARGIN + at, y, &class, &shown);
        }
    };
    let heads = HEADS.map(|(name, _)| name.to_owned());
    draw(canvas, &heads, y, "small faint");
    canvas.rule(MARGIN, y + 6.0, INNER);
    y += LINE + 3.0;
    for &at in scene.marks.listed() {
        let Some(partition) = scene.plan.partitions.get(at) else { continue };
        canvas.cell(Area(MARGIN, y - 12.0, 18.0, 15.0), fill(scene, Owner::Partition(at)), partition.name.as_str());
        draw(canvas, &values(partition, block), y, "");
        y += LINE;
    }
    if scene.marks.unlisted() > 0 {
        let others = || scene.plan.partitions.iter().enumerate().filter(|(at, _)| !scene.marks.is_listed(*at));
        let units = others().fold(Units::ZERO, |sum, (_, one)| sum.plus(one.units()));
        let bytes = others().fold(0u64, |sum, (_, one)| sum.saturating_add(one.memory_bytes(block)));
        let text = format!("and {} more with {units} units and {}", scene.marks.unlisted(), size(bytes));
        canvas.text(MARGIN + 28.0, y, "faint", &text);
        y += LINE;
    }
    y
}

/// A finding in a line: with those who hold what it is about, but not with those who are only declared.
fn told(finding: &Finding) -> String {
    let holders = finding.claims.iter().filter(|claim| claim.key.is_empty());
    let holders: Vec<String> = holders.map(|claim| format!("{} {}", claim.subject, claim.what)).collect();
    let parts = [Some(finding.text.clone()), Some(holders.join(", ")), finding.help.clone()];
    let parts: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    format!("{}: {}", finding.rule, parts.join("; "))
}

/// Warnings, what cannot be activated, and what it costs, from `y` on; gives where they end.
pub fn findings(canvas: &mut Canvas, scene: &Scene<'_>, y: f64) -> f64 {
    let mut y = paragraph(canvas, y + 6.0, &overhead(scene));
    let holders = if scene.plan.holders.is_empty() { String::new() } else { holders(scene.plan) };
    for line in [guarded(scene), holders].iter().filter(|line| !line.is_empty()) {
        y = paragraph(canvas, y, line);
    }
    let mut list = |canvas: &mut Canvas, title: &str, class: &str, findings: &[Finding]| {
        if findings.is_empty() {
            return;
        }
        y += 8.0;
        canvas.text(MARGIN, y, class, title);
        y += LINE;
        for finding in findings.iter().take(MOST_FINDINGS) {
            y = paragraph(canvas, y, &told(finding));
        }
        if findings.len() > MOST_FINDINGS {
            y = paragraph(canvas, y, &format!("and {} more", findings.len() - MOST_FINDINGS));
        }
    };
    list(canvas, "Cannot be activated at present", "h2 bad", &scene.plan.withheld);
    list(canvas, "Warnings", "h2", &scene.plan.warnings);
    y
}
