//! `activate`, `shutdown`, `service`, `wait`: what changes a partition, and waiting for it.

use super::{json, print};
use crate::arguments::Common;
use crate::daemons::{BOUNDED_THERE, Daemon, ORDINARY, of, patiently};
use crate::failure::{Failure, Outcome};
use crate::roots;
use frame::api::{PartitionRow, ServiceRequest, ShutdownRequest, WaitAnswer};
use frame::name::Name;
use frame::state::State;
use serde_json::Value;
use std::time::{Duration, Instant};

/// `lpar activate NAME`.
///
/// # Errors
/// When no frame answers, or the partition cannot be started.
pub fn activate(common: &Common, name: &Name) -> Outcome {
    let root = roots::running(common)?;
    let manager = Daemon::manager(&root);
    manager.post::<_, Value>(&of(name, "/activate"), &serde_json::json!({}), BOUNDED_THERE)?;
    say(common, &manager, name)
}

/// `lpar shutdown NAME`.
///
/// # Errors
/// When no frame answers, or the partition keeps running.
pub fn shutdown(common: &Common, name: &Name, request: ShutdownRequest) -> Outcome {
    let root = roots::running(common)?;
    let manager = Daemon::manager(&root);
    manager.post::<_, Value>(&of(name, "/shutdown"), &request, BOUNDED_THERE)?;
    say(common, &manager, name)
}

/// `lpar service NAME DEVICE`.
///
/// # Errors
/// When no frame answers, the partition does not run, or has no such device.
pub fn service(common: &Common, name: &Name, request: &ServiceRequest) -> Outcome {
    let root = roots::running(common)?;
    let manager = Daemon::manager(&root);
    manager.post::<_, Value>(&of(name, "/service"), request, ORDINARY)?;
    say(common, &manager, name)
}

/// Says how the partition stands now.
fn say(common: &Common, manager: &Daemon, name: &Name) -> Outcome {
    let detail: frame::api::PartitionDetail = manager.get(&of(name, ""))?;
    tell(common, &detail.row)
}

fn tell(common: &Common, row: &PartitionRow) -> Outcome {
    if common.json {
        return json(row);
    }
    let reason = if row.reason.is_empty() { String::new() } else { format!(" ({})", crate::show::plain(&row.reason)) };
    print(&format!("{}: {}{reason}\n", row.name, row.state))
}

/// `lpar wait NAME --state S --timeout T`.
///
/// # Errors
/// [`Failure::TimedOut`] when the state is not reached in time; others when no frame answers.
pub fn wait(common: &Common, name: &Name, state: State, timeout: Duration) -> Outcome {
    let root = roots::running(common)?;
    let manager = Daemon::manager(&root);
    let deadline = Instant::now() + timeout;
    let word = state.as_str().to_ascii_lowercase().replace(' ', "-");
    loop {
        let answer: WaitAnswer = patiently(|| {
            // The manager may be replaced in the middle; the next one is asked for what is left.
            let left = deadline.saturating_duration_since(Instant::now());
            let query = of(name, &format!("/wait?state={word}&timeout_ms={}", left.as_millis()));
            manager.client().with_timeout(left + ORDINARY).get(&query)
        })?;
        if answer.reached {
            return tell(common, &answer.partition);
        }
        // A manager that bounds a single wait is asked again.
        if Instant::now() >= deadline {
            let row = answer.partition;
            let reason = if row.reason.is_empty() { String::new() } else { format!(" ({})", row.reason) };
            return Err(Failure::TimedOut(format!(
                "partition {name} is not {state} after {} ms; it is {}{reason}",
                timeout.as_millis(),
                row.state
            )));
        }
    }
}
