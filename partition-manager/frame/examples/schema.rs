//! Writes the JSON Schema of frame files to standard output:
//!
//! ```text
//! cargo run -p frame --features schema --example schema > configs/frame.schema.json
//! ```
//!
//! With `included` as its argument, that of files that a frame file includes.

use frame::form;
use std::io::Write;

fn main() -> std::io::Result<()> {
    let schema = match std::env::args().nth(1).as_deref() {
        Some("included") => form::included_schema(),
        _ => form::schema(),
    };
    std::io::stdout().lock().write_all(form::text(&schema).as_bytes())
}
