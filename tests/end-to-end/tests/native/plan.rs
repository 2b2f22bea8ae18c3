//! `lpar plan`: the picture, the document, and a plan beside a frame that runs.

use crate::{TWO, examples};
use anyhow::{Context, Result, ensure};
use end_to_end::frame::Frame;

/// `lpar plan` of a frame's file with more arguments, by itself.
fn plan(frame: &Frame, more: &[&str], status: i32) -> Result<end_to_end::lpar::Answer> {
    let file = frame.file();
    let file = file.to_string_lossy();
    frame.lpar.run_all(["plan", &file].iter().chain(more))?.expect(status)
}

pub fn drawn() -> Result<()> {
    let frame = Frame::new(TWO)?;
    let plain = plan(&frame, &[], 0)?.stdout;
    ensure!(!plain.contains('\u{1b}'), "a pipe gets no escape sequences: {plain:?}");
    for part in ["CPUs: ", "node 0", "1 default", "A alpha", "B beta", "overhead", "planned for this host"] {
        ensure!(plain.contains(part), "no {part:?} in {plain}");
    }
    let coloured = plan(&frame, &["--color", "always"], 0)?.stdout;
    ensure!(coloured.contains("\u{1b}[48;5;"), "{coloured:?}");
    let bare: String = coloured.split('\u{1b}').enumerate().map(strip).collect();
    ensure!(bare == plain, "colours change nothing but colours:\n{bare}\n{plain}");
    frame.nothing_left()
}

/// What follows an escape sequence; the first piece follows none.
fn strip((at, piece): (usize, &str)) -> &str {
    if at == 0 { piece } else { piece.split_once('m').map_or("", |(_, rest)| rest) }
}

pub fn document() -> Result<()> {
    let frame = Frame::new(TWO)?;
    let path = frame.directory().join("plan.svg");
    let named = path.to_string_lossy();
    let said = plan(&frame, &["--svg", &named], 0)?.stdout;
    ensure!(said.contains("plan.svg"), "{said}");
    let written = std::fs::read_to_string(&path)?;
    ensure!(written.starts_with("<svg ") && written.ends_with("</svg>\n"), "{written}");
    ensure!(written.contains("<title>partition alpha") && !written.contains("<script"), "{written}");
    let piped = plan(&frame, &["--svg", "-"], 0)?.stdout;
    ensure!(piped.starts_with("<svg ") && piped.ends_with("</svg>\n"), "{piped}");
    let refused = plan(&frame, &["--svg", "-", "--json"], 1)?.stderr;
    ensure!(refused.contains("standard output"), "{refused}");
    let refused = plan(&frame, &["--svg", "/nowhere/at/all.svg"], 1)?.stderr;
    ensure!(refused.contains("/nowhere/at/all.svg"), "{refused}");
    frame.nothing_left()
}

pub fn elsewhere() -> Result<()> {
    let frame = Frame::new(TWO)?;
    let inventory = examples::path("inventories/two-sockets.json");
    let answer = plan(&frame, &["--inventory", &inventory, "--json"], 0)?.json()?;
    ensure!(answer["against"] == "nothing", "{answer}");
    let all = answer["unassigned"].as_str().context("no unassigned CPUs")?;
    ensure!(all.contains("31"), "planned for the 32 CPUs of {inventory}: {answer}");
    let text = plan(&frame, &["--inventory", &inventory], 0)?.stdout;
    ensure!(text.contains("pkg 1 node 1") && text.contains("two-sockets.json"), "{text}");
    frame.nothing_left()
}

pub fn running() -> Result<()> {
    let frame = Frame::up(TWO)?;
    frame.lpar.ok("shutdown beta")?;
    let answer = plan(&frame, &["--json"], 0)?.json()?;
    ensure!(answer["against"] == "running", "{answer}");
    let planned = answer["partitions"].as_array().context("no partitions")?;
    let alpha = planned.iter().find(|one| one["name"] == "alpha").context("no alpha")?;
    let row = frame.lpar.row("alpha")?;
    ensure!(alpha["cpus"] == row["cpus"], "what runs stays where it is: {alpha} {row}");
    let text = plan(&frame, &[], 0)?.stdout;
    ensure!(text.contains("against the running frame: what its 1 partition owns stays"), "{text}");
    // Another machine is planned for as though nothing ran.
    let inventory = examples::path("inventories/two-sockets.json");
    let other = plan(&frame, &["--inventory", &inventory, "--json"], 0)?.json()?;
    ensure!(other["against"] == "nothing", "{other}");
    frame.down()
}
