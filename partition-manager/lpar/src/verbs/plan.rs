//! `plan`: who would get what, drawn.

use super::{json, print};
use crate::arguments::{Colour, Common, PlanOptions};
use crate::declaration::Declaration;
use crate::draw::{self, Ink, Scene};
use crate::failure::{Outcome, refuse};
use crate::{host, roots, whole};
use anyhow::Context;
use frame::api::ASSIGNMENT;
use frame::assignment::Assignment;
use frame::inventory::Inventory;
use frame::plan::Plan;
use os::http::Client;
use serde::Serialize;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::time::Duration;

/// Largest inventory file, bytes.
const LARGEST_INVENTORY: u64 = 64 << 20;
/// How long the manager of a running frame may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Columns where nothing says how many there are.
const COLUMNS: usize = 80;
/// Fewest and most columns that a picture is drawn for.
const BETWEEN: (usize, usize) = (40, 300);

/// The plan as JSON: all of it, and what it was made against.
#[derive(Debug, Serialize)]
struct Planned<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    /// `running` when it keeps what partitions of the running frame own now, `nothing` otherwise.
    against: &'static str,
}

/// `lpar plan FILE [--inventory FILE] [--svg FILE]`.
///
/// # Errors
/// When the file has mistakes, its frame does not fit the host, or the picture cannot be written.
pub fn plan(common: &Common, file: &Path, options: &PlanOptions) -> Outcome {
    let to_stdout = options.svg.as_deref() == Some(Path::new("-"));
    if to_stdout && common.json {
        refuse!("--json and --svg - both want standard output; name a file for the picture");
    }
    let mut declaration = Declaration::load(file)?;
    let (inventory, machine) = match &options.inventory {
        Some(path) => (read_inventory(path)?, format!("planned for the machine in {}", path.display())),
        None => (host::report()?.inventory, "planned for this host".to_owned()),
    };
    let (owned, against) = match &options.inventory {
        Some(_) => (None, None),
        None => running(common, &declaration),
    };
    let assignment = owned.clone().unwrap_or_default();
    let plan = declaration.plan_against(&inventory, &assignment);
    declaration.judge()?;
    let Some(plan) = plan else { return declaration.verdict() };
    let scene = Scene::new(&plan, &inventory, &assignment);
    let basis: Vec<String> = [Some(machine), against].into_iter().flatten().collect();
    if let Some(path) = options.svg.as_deref().filter(|_| !to_stdout) {
        whole::write(path, draw::svg(&scene, &basis).as_bytes(), "picture")?;
    }
    if common.json {
        return json(&Planned { plan: &plan, against: if owned.is_some() { "running" } else { "nothing" } });
    }
    match options.svg.as_deref() {
        Some(_) if to_stdout => print(&draw::svg(&scene, &basis)),
        Some(path) => print(&format!("the plan of frame {} is drawn in {}\n", plan.frame, path.display())),
        None => print(&draw::text(&scene, &picture(options, basis))),
    }
}

/// What the running frame of the same name owns, and what to say of it.
fn running(common: &Common, declaration: &Declaration) -> (Option<Assignment>, Option<String>) {
    let Some(frame) = declaration.frame() else { return (None, None) };
    let Ok(root) = roots::of_frame(common, &frame.name) else { return (None, None) };
    if !roots::runs(&root) {
        return (None, None);
    }
    let there: Result<frame::api::FrameAssignment, _> = Client::new(&root.manager_socket(), PATIENCE).get(ASSIGNMENT);
    match there {
        Ok(there) if there.frame == frame.name => {
            let active = there.assignment.partitions.len();
            let partitions =
                if active == 1 { "1 partition owns".to_owned() } else { format!("{active} partitions own") };
            (Some(there.assignment), Some(format!("planned against the running frame: what its {partitions} stays")))
        }
        // Another frame at the root that was named: this one does not run.
        Ok(_) => (None, None),
        Err(error) => (
            None,
            Some(format!(
                "frame {} runs here, but does not say what it owns ({error}); planned as though nothing ran",
                frame.name
            )),
        ),
    }
}

/// How to draw for whoever reads standard output.
fn picture(options: &PlanOptions, basis: Vec<String>) -> draw::Options {
    let terminal = std::io::stdout().is_terminal();
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let named = set("COLUMNS").and_then(|value| value.to_str()?.parse().ok());
    let measured = || crossterm::terminal::size().ok().filter(|_| terminal).map(|(columns, _)| usize::from(columns));
    let known = measured().filter(|columns| *columns > 0).or(named);
    let width = known.unwrap_or(COLUMNS).clamp(BETWEEN.0, BETWEEN.1);
    let able = terminal && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb");
    let ink = match options.color {
        Colour::Always => Ink::Colours,
        Colour::Auto if able => Ink::Colours,
        Colour::Auto | Colour::Never => Ink::Plain,
    };
    // In a pipe nothing wraps a long line, and whoever searches it wants all of it.
    let table = if known.is_some() { width } else { usize::MAX };
    draw::Options { width, table, ink, all: options.all, basis }
}

fn read_inventory(path: &Path) -> Outcome<Inventory> {
    let shown = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("cannot open the inventory {shown}"))?;
    let mut text = String::new();
    let length =
        file.take(LARGEST_INVENTORY).read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
    if length as u64 == LARGEST_INVENTORY {
        refuse!("the inventory {shown} has {LARGEST_INVENTORY} bytes or more; check that this is the file you mean");
    }
    Ok(Inventory::from_json(&text).with_context(|| format!("cannot use the inventory {shown}"))?)
}
