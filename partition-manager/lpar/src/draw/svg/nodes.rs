//! The machine: a panel for each node with its cores and its memory, and a bar for each pool.

use super::canvas::{Area, Canvas, Fill};
use super::{INNER, MARGIN};
use crate::draw::cpus::{Scale, cells};
use crate::draw::scene::{Owner, Row, Scene};
use crate::draw::tables::{pages, whole};
use crate::show::size;
use frame::units::Units;
use std::collections::BTreeMap;

/// Most cells of CPUs; a cell is several cores on machines that have more.
const MOST_CELLS: usize = 8192;
/// Narrowest panel.
const NARROWEST: f64 = 270.0;
/// Between panels, and inside them at each side.
const GAP: f64 = 12.0;
/// Height of a bar.
const BAR: f64 = 18.0;
/// Narrowest part of a bar that is drawn by itself.
const SLIVER: f64 = 0.8;
/// Most pools that have a bar.
const MOST_POOLS: usize = 32;

/// The fill of an owner.
#[must_use]
pub fn fill(scene: &Scene<'_>, owner: Owner) -> Fill {
    Fill::new(scene.marks.of(owner), round(scene, owner))
}

/// How often the owner's colour was given before.
fn round(scene: &Scene<'_>, owner: Owner) -> usize {
    match owner {
        Owner::Partition(at) | Owner::Idle(at) => scene.marks.round(at),
        _ => 0,
    }
}

/// What the cells of a picture measure.
#[derive(Clone, Copy)]
struct Measure {
    scale: Scale,
    width: f64,
    height: f64,
    gap: f64,
}

impl Measure {
    fn new(scene: &Scene<'_>) -> Self {
        let cpus = scene.inventory.cpus.len();
        let cores: usize = scene.rows.iter().map(|row| row.cores.len()).sum();
        let (width, height, gap) = match cpus {
            0..=16 => (46.0, 30.0, 8.0),
            17..=96 => (28.0, 19.0, 5.0),
            97..=512 => (20.0, 14.0, 4.0),
            513..=2048 => (14.0, 10.0, 3.0),
            _ => (9.0, 7.0, 2.0),
        };
        let scale = if cpus <= MOST_CELLS { Scale::Cpu } else { Scale::Cores(cores.div_ceil(MOST_CELLS).max(1)) };
        Self { scale, width, height, gap }
    }

    /// The cores of a row as stacks of cells: each cell is its CPUs.
    fn stacks(self, row: &Row) -> Vec<Vec<Vec<u32>>> {
        match self.scale {
            Scale::Cpu => cells(row, self.scale),
            Scale::Cores(_) => cells(row, self.scale).into_iter().flatten().map(|cell| vec![cell]).collect(),
        }
    }
}

/// Draws the panels from `y` on; gives where they end.
pub fn draw(canvas: &mut Canvas, scene: &Scene<'_>, y: f64) -> f64 {
    let measure = Measure::new(scene);
    let nodes = &scene.inventory.nodes;
    let most = ((INNER + GAP) / (NARROWEST + GAP)).floor().max(1.0) as usize;
    // Rows that are full look better than a last one that is not.
    let lines = nodes.len().div_ceil(most).max(1);
    let columns = nodes.len().div_ceil(lines).max(1);
    let width = (INNER - GAP * (columns - 1) as f64) / columns as f64;
    let mut largest: BTreeMap<u64, u64> = BTreeMap::new();
    for one in &scene.memory {
        let most = largest.entry(one.pages).or_default();
        *most = one.bytes().max(*most);
    }
    let mut top = y;
    for line in nodes.chunks(columns) {
        let height = line.iter().map(|node| panel_height(scene, measure, node.id, width)).fold(0.0, f64::max);
        for (at, node) in line.iter().enumerate() {
            let left = MARGIN + at as f64 * (width + GAP);
            panel(canvas, scene, measure, node.id, Area(left, top, width, height), &largest);
        }
        top += height + GAP;
    }
    top
}

fn rows_of<'s>(scene: &'s Scene<'_>, node: u32) -> impl Iterator<Item = &'s Row> {
    scene.rows.iter().filter(move |row| row.node == node)
}

/// How many stacks fit beside each other, how high the highest is, and how many stacks there are.
fn shape(measure: Measure, row: &Row, width: f64) -> (usize, f64, usize) {
    let stacks = measure.stacks(row);
    let beside = ((width - 2.0 * GAP + measure.gap) / (measure.width + measure.gap)).floor().max(1.0) as usize;
    let high = stacks.iter().map(Vec::len).max().unwrap_or(1) as f64 * measure.height;
    (beside, high, stacks.len())
}

fn row_height(measure: Measure, row: &Row, width: f64) -> f64 {
    let (beside, high, stacks) = shape(measure, row, width);
    18.0 + stacks.div_ceil(beside) as f64 * (high + measure.gap)
}

fn memory_of<'s>(scene: &'s Scene<'_>, node: u32) -> impl Iterator<Item = &'s crate::draw::scene::Memory> {
    scene.memory.iter().filter(move |one| one.node == node && one.bytes() > 0)
}

fn panel_height(scene: &Scene<'_>, measure: Measure, node: u32, width: f64) -> f64 {
    let cpus: f64 = rows_of(scene, node).map(|row| row_height(measure, row, width)).sum();
    let memory = memory_of(scene, node).count() as f64 * (BAR + 20.0);
    26.0 + cpus + memory + GAP
}

fn panel(
    canvas: &mut Canvas,
    scene: &Scene<'_>,
    measure: Measure,
    node: u32,
    area: Area,
    largest: &BTreeMap<u64, u64>,
) {
    let Area(left, top, width, _) = area;
    canvas.shape(area, "panel", 6.0);
    canvas.text(left + GAP, top + 20.0, "h2", &format!("Node {node}"));
    let bytes = memory_of(scene, node).fold(0u64, |sum, one| sum.saturating_add(one.bytes()));
    canvas.text(left + width - GAP, top + 20.0, "small faint end", &format!("{} of memory", size(bytes)));
    let mut y = top + 26.0;
    for row in rows_of(scene, node) {
        let cpus: usize = row.cores.iter().map(|core| core.cpus.len()).sum();
        let text = format!("package {}: {} cores, {cpus} CPUs", row.package, row.cores.len());
        canvas.text(left + GAP, y + 12.0, "small faint", &text);
        let (beside, high, _) = shape(measure, row, width);
        for (at, stack) in measure.stacks(row).iter().enumerate() {
            let x = left + GAP + (at % beside) as f64 * (measure.width + measure.gap);
            let above = y + 18.0 + (at / beside) as f64 * (high + measure.gap);
            for (deep, cell) in stack.iter().enumerate() {
                let place = Area(x, above + deep as f64 * measure.height, measure.width, measure.height);
                one_cell(canvas, scene, row, cell, place);
            }
            if stack.len() > 1 {
                let all = Area(x, above, measure.width, measure.height * stack.len() as f64);
                canvas.shape(all, "core", (measure.height * 0.15).min(3.0));
            }
        }
        y += row_height(measure, row, width);
    }
    for one in memory_of(scene, node) {
        let free = one.shares.iter().filter(|(owner, _)| *owner == Owner::Nobody).map(|(_, bytes)| bytes).sum();
        let text = format!("{} in {}, {} free", size(one.bytes()), pages(one.pages), size(free));
        canvas.text(left + GAP, y + 12.0, "small faint", &text);
        // Pages of each size have a scale of their own.
        let most = largest.get(&one.pages).copied().unwrap_or(1).max(1);
        let full = (width - 2.0 * GAP) * (one.bytes() as f64 / most as f64);
        let tip = |owner: Owner, bytes: u64| {
            format!("{}: {} in {} on node {node}", scene.words(owner), size(bytes), pages(one.pages))
        };
        bar(canvas, scene, Area(left + GAP, y + 17.0, full.max(2.0), BAR), &one.shares, &tip);
        y += BAR + 20.0;
    }
}

fn one_cell(canvas: &mut Canvas, scene: &Scene<'_>, row: &Row, cell: &[u32], place: Area) {
    let mark = scene.marks.of_cell(cell.iter().map(|cpu| scene.owner(*cpu)));
    let Some(first) = cell.first() else { return };
    let owner = scene.owner(*first);
    let core = row.cores.iter().find(|core| core.cpus.contains(first)).map_or(0, |core| core.core);
    let tip = match cell {
        [cpu] => {
            format!("CPU {cpu} (core {core}, package {}, node {}): {}", row.package, row.node, scene.words(owner))
        }
        all => {
            let cpus: frame::cpuset::CpuSet = all.iter().copied().collect();
            let mut words: Vec<String> = all.iter().map(|cpu| scene.words(scene.owner(*cpu))).collect();
            words.sort();
            words.dedup();
            words.truncate(8);
            format!("CPUs {cpus} (package {}, node {}): {}", row.package, row.node, words.join(", "))
        }
    };
    canvas.cell(place, Fill::new(mark, round(scene, owner)), &tip);
}

/// A bar in proportion. Parts too narrow to see are drawn together, as what the first of them is.
fn bar(
    canvas: &mut Canvas,
    scene: &Scene<'_>,
    Area(left, top, width, height): Area,
    shares: &[(Owner, u64)],
    tip: &dyn Fn(Owner, u64) -> String,
) {
    let total = shares.iter().fold(0u64, |sum, (_, amount)| sum.saturating_add(*amount)).max(1) as f64;
    let mut x = left;
    let mut narrow: Vec<(Owner, u64)> = Vec::new();
    let wide = |amount: u64| width * amount as f64 / total;
    for (at, &(owner, amount)) in shares.iter().enumerate() {
        narrow.push((owner, amount));
        let sum = narrow.iter().fold(0u64, |sum, (_, amount)| sum.saturating_add(*amount));
        let next_is_wide = shares.get(at + 1).is_none_or(|(_, amount)| wide(*amount) >= SLIVER);
        if wide(sum) < SLIVER && !next_is_wide {
            continue;
        }
        let text = match narrow.as_slice() {
            [(owner, amount)] => tip(*owner, *amount),
            several => format!("{} together, the first: {}", several.len(), tip(owner, amount)),
        };
        canvas.cell(Area(x, top, wide(sum), height), fill(scene, owner), &text);
        x += wide(sum);
        narrow.clear();
    }
}

/// Draws a bar for each pool from `y` on; gives where they end.
pub fn pools(canvas: &mut Canvas, scene: &Scene<'_>, y: f64) -> f64 {
    if scene.pools.is_empty() {
        return y;
    }
    let mut y = y + 16.0;
    canvas.text(MARGIN, y, "h2", "Pools: who is entitled to how much");
    y += 10.0;
    let total = |at: usize| scene.plan.pools.get(at).map_or(0, |pool| pool.cpus.len());
    let largest = scene.pools.iter().map(|pool| total(pool.at)).max().unwrap_or(1).max(1);
    for pool in scene.pools.iter().take(MOST_POOLS) {
        let Some(planned) = scene.plan.pools.get(pool.at) else { continue };
        let text = format!(
            "{}: {} units on CPUs {}, {} partition{}",
            planned.name,
            whole(planned.cpus.len()),
            planned.cpus,
            pool.partitions,
            if pool.partitions == 1 { "" } else { "s" }
        );
        canvas.cell(Area(MARGIN, y, BAR, BAR), fill(scene, Owner::Pool(pool.at)), &text);
        let shown: String = text.chars().take(170).collect();
        canvas.text(MARGIN + BAR + 8.0, y + 13.0, "", &shown);
        let full = INNER * planned.cpus.len() as f64 / largest as f64;
        let tip = |owner: Owner, units: u64| {
            let units = Units::from_thousandths(u32::try_from(units).unwrap_or(u32::MAX));
            match owner {
                Owner::Nobody => format!("spare: {units} units of pool {}", planned.name),
                _ => format!("{}: {units} units of pool {}", scene.words(owner), planned.name),
            }
        };
        bar(canvas, scene, Area(MARGIN, y + BAR + 4.0, full, BAR), &pool.shares, &tip);
        y += 2.0 * BAR + 14.0;
    }
    if scene.pools.len() > MOST_POOLS {
        canvas.text(MARGIN, y + 12.0, "faint", &format!("and {} more pools", scene.pools.len() - MOST_POOLS));
        y += 20.0;
    }
    y
}
