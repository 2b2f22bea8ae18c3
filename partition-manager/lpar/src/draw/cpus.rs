//! The CPUs as cells: siblings of a core together, a line or more for the cores of each package and node.

use super::ink::Line;
use super::marks::Paint;
use super::scene::{Row, Scene};

/// Most lines that CPUs take while each has a cell of its own, unless every row fits in one line.
const MOST_LINES: usize = 16;
/// Cells between two gaps when a cell is one core or more.
const GROUP: usize = 10;

/// What a cell stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// One CPU.
    Cpu,
    /// So many cores.
    Cores(usize),
}

impl Scale {
    /// What a cell is, in words; `siblings` says whether a core has several CPUs anywhere.
    #[must_use]
    pub fn words(self, siblings: bool) -> String {
        match (self, siblings) {
            (Self::Cpu, true) => "a cell is a CPU; those of one core stand together".to_owned(),
            (Self::Cpu, false) => "a cell is a CPU, which is a whole core".to_owned(),
            (Self::Cores(1), true) => "a cell is a core with all its CPUs".to_owned(),
            (Self::Cores(1), false) => "a cell is a core, which is one CPU".to_owned(),
            (Self::Cores(n), _) => format!("a cell is {n} cores with all their CPUs"),
        }
    }
}

/// The cells of a row, in groups that stand together: each cell is its CPUs.
#[must_use]
pub fn cells(row: &Row, scale: Scale) -> Vec<Vec<Vec<u32>>> {
    match scale {
        Scale::Cpu => row.cores.iter().map(|core| core.cpus.iter().map(|cpu| vec![*cpu]).collect()).collect(),
        Scale::Cores(n) => {
            let merged =
                row.cores.chunks(n.max(1)).map(|cores| cores.iter().flat_map(|core| core.cpus.clone()).collect());
            let merged: Vec<Vec<u32>> = merged.collect();
            merged.chunks(GROUP).map(<[Vec<u32>]>::to_vec).collect()
        }
    }
}

/// Whether any core has several CPUs.
#[must_use]
pub fn siblings(rows: &[Row]) -> bool {
    rows.iter().flat_map(|row| &row.cores).any(|core| core.cpus.len() > 1)
}

/// The groups of a row, joined where a gap would say nothing: cores of one CPU each.
fn groups(row: &Row, scale: Scale, siblings: bool) -> Vec<Vec<Vec<u32>>> {
    let groups = cells(row, scale);
    if scale == Scale::Cpu && !siblings {
        let all: Vec<Vec<u32>> = groups.into_iter().flatten().collect();
        return all.chunks(GROUP).map(<[Vec<u32>]>::to_vec).collect();
    }
    groups
}

/// Breaks groups into lines of at most `width` columns, a blank between groups; a group that is wider than a
/// line is broken itself.
fn wrap(groups: Vec<Vec<Vec<u32>>>, width: usize) -> Vec<Vec<Vec<Vec<u32>>>> {
    let width = width.max(1);
    let mut lines: Vec<Vec<Vec<Vec<u32>>>> = Vec::new();
    let mut used = 0;
    for group in groups {
        for part in group.chunks(width) {
            let wide = part.len() + usize::from(used > 0);
            match lines.last_mut() {
                Some(line) if used + wide <= width => {
                    line.push(part.to_vec());
                    used += wide;
                }
                _ => {
                    lines.push(vec![part.to_vec()]);
                    used = part.len();
                }
            }
        }
    }
    lines
}

/// The finest scale at which the CPUs take few lines of `width` columns.
#[must_use]
pub fn scale(rows: &[Row], width: usize) -> Scale {
    let siblings = siblings(rows);
    let cores = rows.iter().map(|row| row.cores.len()).max().unwrap_or(0);
    let mut scale = Scale::Cpu;
    loop {
        let lines = rows.iter().map(|row| wrap(groups(row, scale, siblings), width).len());
        let lines: Vec<usize> = lines.collect();
        if lines.iter().all(|n| *n <= 1) || lines.iter().sum::<usize>() <= MOST_LINES {
            return scale;
        }
        scale = match scale {
            Scale::Cpu => Scale::Cores(1),
            Scale::Cores(n) if n < cores => Scale::Cores(n * 2),
            // One cell a row: it cannot be less.
            Scale::Cores(_) => return scale,
        };
    }
}

/// The lines of all CPUs, `width` columns wide, and the scale.
#[must_use]
pub fn lines(scene: &Scene<'_>, width: usize) -> (Vec<Line>, Scale) {
    let siblings = siblings(&scene.rows);
    let labels: Vec<String> = labels(&scene.rows);
    let head = labels.iter().map(String::len).max().unwrap_or(0) + 1;
    let room = width.saturating_sub(head).max(8);
    let scale = scale(&scene.rows, room);
    let mut lines = Vec::new();
    for (row, label) in scene.rows.iter().zip(&labels) {
        for (at, groups) in wrap(groups(row, scale, siblings), room).into_iter().enumerate() {
            let mut line = Line::default();
            line.push(Paint::Plain, &format!("{:head$}", if at == 0 { label.as_str() } else { "" }));
            for (at, group) in groups.iter().enumerate() {
                line.push(Paint::Plain, if at == 0 { "" } else { " " });
                for cell in group {
                    line.mark(scene.marks.of_cell(cell.iter().map(|cpu| scene.owner(*cpu))));
                }
            }
            lines.push(line);
        }
    }
    (lines, scale)
}

fn labels(rows: &[Row]) -> Vec<String> {
    let digits = |numbers: &mut dyn Iterator<Item = u32>| numbers.max().unwrap_or(0).to_string().len();
    let package = digits(&mut rows.iter().map(|row| row.package));
    let node = digits(&mut rows.iter().map(|row| row.node));
    rows.iter().map(|row| format!("pkg {:package$} node {:node$}", row.package, row.node)).collect()
}
