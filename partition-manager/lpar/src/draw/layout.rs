//! The picture as lines of text.

use super::bar::{bar, cell_size};
use super::cpus;
use super::ink::{Ink, Line};
use super::marks::{Mark, Paint};
use super::scene::Scene;
use super::tables;
use crate::show::size;
use frame::inventory::PAGE;
use std::collections::BTreeMap;

/// Most lines of pools.
const MOST_POOLS: usize = 16;

/// How a picture is drawn.
#[derive(Clone, Debug)]
pub struct Options {
    /// Columns of the picture.
    pub width: usize,
    /// Columns of the table of partitions, which may be wider where nothing wraps it.
    pub table: usize,
    /// Whether colours are used.
    pub ink: Ink,
    /// Whether every partition has a line of its own.
    pub all: bool,
    /// What the plan was made for and against, in a sentence each.
    pub basis: Vec<String>,
}

/// The picture as text.
#[must_use]
pub fn text(scene: &Scene<'_>, options: &Options) -> String {
    let mut out = String::new();
    for line in lines(scene, options) {
        out.push_str(&line.show(options.ink));
        out.push('\n');
    }
    out
}

/// The picture as lines.
#[must_use]
pub fn lines(scene: &Scene<'_>, options: &Options) -> Vec<Line> {
    let width = options.width;
    let mut lines = head(scene, options);
    let mut drawn: Vec<Mark> = Vec::new();

    let (cells, scale) = cpus::lines(scene, width);
    lines.push(Line::default());
    lines.push(title("CPUs", &scale.words(cpus::siblings(&scene.rows))));
    drawn.extend(cells.iter().flat_map(Line::marks));
    lines.extend(cells);

    lines.push(Line::default());
    let memory = memory(scene, width);
    drawn.extend(memory.iter().skip(1).flat_map(Line::marks));
    lines.extend(memory);

    if !scene.pools.is_empty() {
        lines.push(Line::default());
        let pools = pools(scene, width);
        drawn.extend(pools.iter().skip(1).flat_map(Line::marks));
        lines.extend(pools);
    }
    lines.push(Line::default());
    lines.extend(tables::legend(scene, &drawn, width));
    lines.push(Line::default());
    lines.extend(tables::partitions(scene, options.table, options.all));
    lines.push(Line::default());
    lines.extend(foot(scene, width));
    lines
}

fn title(what: &str, words: &str) -> Line {
    let mut line = Line::painted(Paint::Strong, what);
    line.push(Paint::Plain, &format!(": {words}"));
    line
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// What the plan is of, in words.
#[must_use]
pub fn machine(scene: &Scene<'_>) -> String {
    let inventory = scene.inventory;
    let cores = scene.rows.iter().map(|row| row.cores.len()).sum();
    let mut packages: Vec<u32> = inventory.cpus.iter().map(|cpu| cpu.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let memory = inventory.nodes.iter().fold(0u64, |sum, node| sum.saturating_add(node.memory));
    format!(
        "{} in {}, {}, {}, {} of memory",
        count(inventory.cpus.len(), "CPU"),
        count(cores, "core"),
        count(packages.len(), "package"),
        count(inventory.nodes.len(), "node"),
        size(memory)
    )
}

fn head(scene: &Scene<'_>, options: &Options) -> Vec<Line> {
    let plan = scene.plan;
    let mut first = Line::painted(Paint::Strong, &format!("frame {}", plan.frame));
    first.push(Paint::Plain, &format!(": {}", count(plan.partitions.len(), "partition")));
    if let Some(score) = plan.score {
        first.push(Paint::Plain, &format!(", affinity score {score} of 100"));
    }
    let mut lines = vec![first];
    lines.extend(tables::fold(&machine(scene), options.width, 2));
    lines.extend(options.basis.iter().flat_map(|one| tables::fold(one, options.width, 2)));
    lines
}

fn memory(scene: &Scene<'_>, width: usize) -> Vec<Line> {
    let several = scene.memory.iter().any(|one| one.pages != PAGE);
    let shown: Vec<_> = scene.memory.iter().filter(|one| one.bytes() > 0).collect();
    let node = shown.iter().map(|one| one.node.to_string().len()).max().unwrap_or(1);
    let label = |one: &super::scene::Memory| {
        let pages = if several { format!(" {:>4}", size(one.pages).trim_end_matches("iB")) } else { String::new() };
        format!("node {:node$}{pages} {:>8} ", one.node, size(one.bytes()))
    };
    let head = shown.iter().map(|one| label(one).chars().count()).max().unwrap_or(0);
    let room = width.saturating_sub(head).max(8);
    // Pages of each size have a scale of their own: there are often far fewer of the large ones.
    let mut cells: BTreeMap<u64, u64> = BTreeMap::new();
    for one in &shown {
        let cell = cells.entry(one.pages).or_default();
        *cell = (*cell).max(cell_size(one.bytes(), room, scene.plan.memory_block.max(1)));
    }
    let scales = cells.iter().map(|(pages, cell)| match several {
        true => format!("{} of {}", size(*cell), tables::pages(*pages)),
        false => size(*cell),
    });
    let scales = scales.collect::<Vec<_>>().join(", ");
    let mut lines = tables::fold(&format!("a cell is {scales}; it shows whoever has part of it"), width - 8, 8);
    if let Some(first) = lines.first_mut() {
        *first = title("memory", &first.show(Ink::Plain));
    }
    for one in shown {
        let mut line = Line::of(&format!("{:head$}", label(one)));
        let cell = cells.get(&one.pages).copied().unwrap_or(1);
        bar(&scene.marks, &one.shares, cell).into_iter().for_each(|mark| line.mark(mark));
        lines.push(line);
    }
    lines
}

fn pools(scene: &Scene<'_>, width: usize) -> Vec<Line> {
    let shown = scene.pools.len().min(MOST_POOLS);
    let label = |pool: &super::scene::Pool| {
        let planned = scene.plan.pools.get(pool.at);
        let cpus = planned.map_or(0, |one| one.cpus.len());
        let name = planned.map_or("", |one| one.name.as_str());
        let name: String = name.chars().take(16).collect();
        (scene.marks.of(super::scene::Owner::Pool(pool.at)), name, tables::whole(cpus).to_string())
    };
    let labels: Vec<_> = scene.pools.iter().take(shown).map(label).collect();
    let name = labels.iter().map(|(_, name, _)| name.len()).max().unwrap_or(0);
    let units = labels.iter().map(|(_, _, units)| units.len()).max().unwrap_or(0);
    let room = width.saturating_sub(2 + name + 1 + units + 1).max(8);
    let total = |pool: &super::scene::Pool| pool.shares.iter().fold(0u64, |sum, (_, units)| sum.saturating_add(*units));
    let largest = scene.pools.iter().map(total).max().unwrap_or(0);
    let cell = largest.div_ceil(room as u64).max(1);
    let mut lines = vec![title(
        "pools",
        &format!("entitlement in processing units; a cell is {}.{:03} units", cell / 1_000, cell % 1_000),
    )];
    for (pool, (mark, name_of, units_of)) in scene.pools.iter().zip(labels) {
        let mut line = Line::default();
        line.mark(mark);
        line.push(Paint::Plain, &format!(" {name_of:name$} {units_of:>units$} "));
        bar(&scene.marks, &pool.shares, cell).into_iter().for_each(|mark| line.mark(mark));
        lines.push(line);
    }
    if scene.pools.len() > shown {
        lines.push(Line::of(&format!("  and {} more pools; --json has them all", scene.pools.len() - shown)));
    }
    lines
}

fn foot(scene: &Scene<'_>, width: usize) -> Vec<Line> {
    let plan = scene.plan;
    let mut lines = Vec::new();
    let or_none = |set: String| if set.is_empty() { "none".to_owned() } else { set };
    let sets = format!(
        "the host's own CPUs: {}; unassigned: {}",
        or_none(plan.reserved.to_string()),
        or_none(plan.unassigned.to_string())
    );
    lines.extend(tables::fold(&sets, width, 2));
    let guarded = tables::guarded(scene);
    if !guarded.is_empty() {
        lines.extend(tables::fold(&guarded, width, 2));
    }
    if !plan.holders.is_empty() {
        lines.extend(tables::fold(&tables::holders(plan), width, 2));
    }
    lines.extend(tables::fold(&tables::overhead(scene), width, 2));
    if !plan.warnings.is_empty() {
        lines.extend(tables::fold(
            &format!("{}: {}", count(plan.warnings.len(), "warning"), tables::rules(&plan.warnings)),
            width,
            2,
        ));
    }
    if !plan.withheld.is_empty() {
        lines.push(Line::painted(Paint::Strong, "cannot be activated at present:"));
        lines.extend(tables::findings(&plan.withheld, width));
    }
    lines
}
