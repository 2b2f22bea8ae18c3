//! `down`: the end of a frame, whoever of its daemons is still there.

use crate::arguments::Common;
use crate::daemons::patiently;
use crate::failure::{Failure, Outcome, refuse, say};
use crate::lock::{Holder, Lock};
use crate::roots::{self, WhichError};
use crate::supervisor::{clean, patience};
use crate::up;
use crate::verbs::{json, print};
use anyhow::Context;
use frame::api::{DOWN, DownRequest};
use frame::root::Root;
use os::http::{Client, HttpError};
use os::process::Handle;
use rustix::process::Signal;
use std::time::Duration;

/// What the supervisor needs beyond its daemons: also to end by force what does not end in order.
const GRACE: Duration = Duration::from_secs(30);

/// What the service processor needs to say that its patience is over.
const ANSWER: Duration = Duration::from_secs(5);

/// `lpar down [--immediate]`.
///
/// # Errors
/// When the frame stays up.
pub fn down(common: &Common, request: DownRequest) -> Outcome {
    let root = match roots::running(common) {
        Ok(root) => root,
        Err(reason @ (WhichError::None | WhichError::NotThere(_))) => {
            clean_stale(common, request);
            // Done already is done.
            return if common.json { json(&serde_json::json!({})) } else { print(&format!("{reason}\n")) };
        }
        Err(error) => return Err(error.into()),
    };
    let holder = Holder::read(&root.lock());
    let supervisor = match holder.as_ref().map(|holder| holder.supervisor.open()) {
        Some(opened) => opened.context("cannot say whether the supervisor runs")?,
        None => None,
    };
    match supervisor {
        // One that ended stays to be seen until its parent has waited for it.
        Some(supervisor) if supervised(&supervisor)? => with_supervisor(&root, &supervisor, request)?,
        _ => up::bring_down_what_was_left(&root, request)?,
    }
    let name = holder.map(|holder| holder.frame.to_string()).unwrap_or_default();
    if common.json { json(&serde_json::json!({ "frame": name })) } else { print(&format!("frame {name} is down\n")) }
}

/// Removes what is left of a frame that nobody runs any more, if it can be told.
fn clean_stale(common: &Common, request: DownRequest) {
    let root = match (&common.root, &common.frame) {
        (Some(directory), _) => std::path::absolute(directory).ok().map(|directory| Root::under(&directory)),
        (None, Some(name)) => roots::of_frame(common, name).ok(),
        (None, None) => None,
    };
    // Only what a supervisor left has a lock, and only one that is free is nobody's.
    let Some(root) = root.filter(|root| root.lock().exists()) else { return };
    // Everything was killed: its journal knows the groups that confined it, and the events that nobody has heard of.
    if was_of_this_boot(&root)
        && let Err(error) = up::bring_down_what_was_left(&root, request)
    {
        say!("note: what was left of the frame could not be brought down in order: {error}");
    }
    if let Ok(Some(lock)) = Lock::take(&root.lock()) {
        clean(&root, lock);
    }
}

/// Whether the frame at `root` was up in this boot of the host, and its manager left a journal.
fn was_of_this_boot(root: &Root) -> bool {
    let boot = os::process::boot_id().ok();
    let holder = Holder::read(&root.lock());
    holder.is_some_and(|holder| Some(holder.supervisor.boot) == boot)
        && root.manager_database().exists()
        && root.applied_frame().exists()
}

fn with_supervisor(root: &Root, supervisor: &Handle, request: DownRequest) -> Outcome {
    let patience = patience(root, request.immediate);
    let client = Client::new(&root.service_processor_socket(), patience + ANSWER);
    let asked = patiently(|| {
        // The frame may have come down while its service processor was asked again.
        if supervisor.wait(Duration::ZERO).unwrap_or(false) {
            return Ok(serde_json::Value::Null);
        }
        client.post::<_, serde_json::Value>(DOWN, &request)
    });
    match asked {
        Ok(_) => {}
        Err(HttpError::Refused { status: 409, message }) if supervised(supervisor)? => {
            refuse!("the frame stays up: {message}")
        }
        // The supervisor ends what is left, unasked.
        Err(HttpError::Refused { status: 500, message }) => say!("note: {message}; what is left is ended"),
        Err(error) if supervised(supervisor)? => {
            // Its service processor is of no use; the supervisor gets by without it.
            say!("note: {error}; the supervisor is asked instead");
            for _ in 0..if request.immediate { 2 } else { 1 } {
                supervisor.signal(Signal::TERM).context("cannot ask the supervisor")?;
            }
        }
        Err(_) => {}
    }
    if supervisor.wait(patience + GRACE).context("cannot wait for the supervisor")? {
        return Ok(());
    }
    Err(Failure::TimedOut(format!(
        "the frame's supervisor does not end within {} s; {} tells more",
        (patience + GRACE).as_secs(),
        root.log().display()
    )))
}

fn supervised(supervisor: &Handle) -> Outcome<bool> {
    Ok(!supervisor.wait(Duration::ZERO).context("cannot say whether the supervisor runs")?)
}
