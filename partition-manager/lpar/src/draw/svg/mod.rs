//! The picture as a document of its own: SVG 1.1 without scripts, references or foreign fonts.
//!
//! Every cell and bar has a tooltip; every owner is told by a letter or a pattern as well as by its colour; it
//! follows the reader's choice of a light or a dark page.

mod canvas;
mod nodes;
mod words;

use super::layout::machine;
use super::scene::Scene;
use canvas::Canvas;
#[cfg(test)]
pub use canvas::escape as escaped;

/// Width of the document, in its own units.
const WIDTH: f64 = 1200.0;
/// Margin on each side.
const MARGIN: f64 = 24.0;
/// Width between the margins.
const INNER: f64 = WIDTH - 2.0 * MARGIN;

/// The picture as an SVG document; `basis` says what the plan was made for and against, a sentence each.
#[must_use]
pub fn svg(scene: &Scene<'_>, basis: &[String]) -> String {
    let mut canvas = Canvas::default();
    let title = format!("Plan of frame {}", scene.plan.frame);
    canvas.text(MARGIN, 40.0, "h1", &title);
    let mut y = 62.0;
    for line in std::iter::once(machine(scene)).chain(basis.iter().cloned()).chain([words::summary(scene)]) {
        y = words::paragraph(&mut canvas, y, &line);
    }
    y = nodes::draw(&mut canvas, scene, y + 6.0);
    y = nodes::pools(&mut canvas, scene, y);
    y = words::legend(&mut canvas, scene, y + 6.0);
    y = words::partitions(&mut canvas, scene, y + 10.0);
    y = words::findings(&mut canvas, scene, y + 10.0);
    canvas.finish(WIDTH, y + MARGIN, &title)
}
