//! A harness that drives the four binaries from outside, as a user and an operator would.

pub mod console;
pub mod frame;
pub mod hijack;
pub mod host;
pub mod lpar;
pub mod trace;
pub mod wait;
