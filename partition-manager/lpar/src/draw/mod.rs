//! The picture of a plan: who gets which CPUs and which memory, as lines for a terminal and as SVG.
//!
//! Pure: a plan and the inventory that it was made for go in, text comes out.

mod bar;
mod cpus;
mod ink;
mod layout;
mod marks;
mod scene;
mod svg;
mod tables;
#[cfg(test)]
mod tests;

pub use ink::Ink;
pub use layout::{Options, text};
pub use scene::Scene;
pub use svg::svg;
