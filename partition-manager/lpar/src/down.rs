//! `down`: the end of a frame, whoever of its daemons is still there.

use crate::arguments::Common;
use crate::daemons::patiently;
use crate::failure::{Failure, Outcome, refuse};
use crate::lock::Holder;
use crate::roots::{self, WhichError};
use crate::supervisor::patience;
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

/// `lpar down [--immediate]`.
///
/// # Errors
/// When the frame stays up.
pub fn down(common: &Common, request: DownRequest) -> Outcome {
    let root = match roots::running(common) {
        Ok(root) => root,
        Err(reason @ (WhichError::None | WhichError::NotThere(_))) => {
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
        Some(supervisor) => with_supervisor(&root, &supervisor, request)?,
        None => up::bring_down_what_was_left(&root, request)?,
    }
    let name = holder.map(|holder| holder.frame.to_string()).unwrap_or_default();
    if common.json { json(&serde_json::json!({ "frame": name })) } else { print(&format!("frame {name} is down\n")) }
}

fn with_supervisor(root: &Root, supervisor: &Handle, request: DownRequest) -> Outcome {
    let patience = patience(root, request.immediate);
    let client = Client::new(&root.service_processor_socket(), patience);
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
        Err(error) if supervised(supervisor)? => {
            // Its service processor is of no use; the supervisor gets by without it.
            crate::failure::say!("note: {error}; the supervisor is asked instead");
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
