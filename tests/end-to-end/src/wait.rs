//! Waiting for what happens, never for time: every wait has a condition and a generous deadline.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long anything on a shared machine may take before a test gives up on it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks `condition` again and again until it gives a value.
///
/// # Errors
/// When it fails, or gives none within [`DEADLINE`]; `what` says what was waited for.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() > DEADLINE {
            bail!("{what}: not within {} s", DEADLINE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
