//! `apply`, `set`, `diff`: what is declared of a running frame, changed and compared.

use super::{json, print};
use crate::arguments::Common;
use crate::daemons::Daemon;
use crate::declaration::Declaration;
use crate::failure::{Failure, Outcome, refuse, say};
use crate::lock::Holder;
use crate::roots;
use crate::show::{Table, plain, size};
use frame::api::{APPLY, ASSIGNMENT, ApplyRequest, ChangeAnswer, DECLARATION, FrameAssignment, SetRequest};
use frame::change::{self, Active, Change, When};
use frame::declare::Frame;
use frame::name::Name;
use frame::root::Root;
use frame::units::Units;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the manager may take to put a frame in force: it plans it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest value in a table, in characters.
const LONGEST: usize = 40;

/// `lpar apply FILE [--dry-run]`.
///
/// # Errors
/// When the file has mistakes, its frame is not up, or what runs cannot be what it declares.
pub fn apply(common: &Common, file: &Path, dry_run: bool) -> Outcome {
    let (root, frame, _) = declared(common, file)?;
    let request = ApplyRequest { frame, dry_run };
    let answer: ChangeAnswer = Daemon::manager(&root).post(APPLY, &request, PATIENCE)?;
    tell(common, &answer, if dry_run { "nothing was changed (--dry-run)" } else { "in force" })
}

/// `lpar set NAME KEY=VALUE...`.
///
/// # Errors
/// When the partition cannot have that.
pub fn set(common: &Common, name: &Name, values: &[(String, String)]) -> Outcome {
    let mut request = SetRequest { values: BTreeMap::new() };
    for (key, value) in values {
        if request.values.insert(key.clone(), value.clone()).is_some() {
            refuse!("{key} is given twice");
        }
    }
    let root = roots::running(common)?;
    let path = crate::daemons::of(name, "/set");
    let answer: ChangeAnswer = Daemon::manager(&root).post(&path, &request, PATIENCE)?;
    tell(common, &answer, "in force")
}

fn tell(common: &Common, answer: &ChangeAnswer, end: &str) -> Outcome {
    if common.json {
        return json(answer);
    }
    for note in &answer.notes {
        say!("note: {}", plain(note));
    }
    if answer.changes.is_empty() {
        return print("nothing is different from what is in force\n");
    }
    print(&format!("{}{end}\n", table(&answer.changes, "before", "after")))
}

/// `lpar diff [FILE] [--exit-code]`.
///
/// # Errors
/// When the file has mistakes or no frame answers; with `exit_code` also when something is different.
pub fn diff(common: &Common, file: Option<&Path>, exit_code: bool) -> Outcome {
    let file = match file {
        Some(file) => file.to_owned(),
        None => brought_up_with(&roots::running(common)?)?,
    };
    let (root, frame, there) = declared(common, &file)?;
    let owned: FrameAssignment = Daemon::manager(&root).get(ASSIGNMENT)?;
    let running = there.frame.partitions.iter().filter_map(|declared| {
        let plan = owned.assignment.partitions.get(&declared.name)?;
        Some((declared.name.clone(), Active { declared, plan: Some(plan) }))
    });
    let undone = change::of_frame(&there.frame, &frame, &running.collect());
    if common.json {
        json(&serde_json::json!({ "file": undone, "pending": there.pending }))?;
    } else {
        let mut out = String::new();
        if !undone.is_empty() {
            let head = format!("{} is not what is in force; `lpar apply` puts it there:\n", file.display());
            out.push_str(&format!("{head}{}", table(&undone, "in force", "in the file")));
        }
        if !there.pending.is_empty() {
            let gap = if out.is_empty() { "" } else { "\n" };
            let head = "in force, and waits for the next activation:\n";
            out.push_str(&format!("{gap}{head}{}", table(&there.pending, "now", "then")));
        }
        if out.is_empty() {
            out = format!("frame {} is as {} declares it\n", frame.name, file.display());
        }
        print(&out)?;
    }
    let same = undone.is_empty() && there.pending.is_empty();
    if exit_code && !same { Err(Failure::Said) } else { Ok(()) }
}

/// The root where the frame of `file` is up, what the file declares of it, and what is in force.
fn declared(common: &Common, file: &Path) -> Outcome<(Root, Frame, frame::api::Declaration)> {
    let declaration = Declaration::load(file)?;
    declaration.judge_briefly()?;
    let Some(frame) = declaration.resolved() else { return Err(Failure::Said) };
    if let Some(named) = common.frame.as_ref().filter(|named| **named != frame.name) {
        refuse!("{} declares frame {}, not frame {named}; leave --frame out", file.display(), frame.name);
    }
    let root = roots::of_frame(common, &frame.name)?;
    if !roots::runs(&root) {
        refuse!("frame {} is not up; `lpar up {}` brings it up", frame.name, file.display());
    }
    let there: frame::api::Declaration = Daemon::manager(&root).get(DECLARATION)?;
    let frame = declaration.resolved_beside(&there.frame).unwrap_or(frame);
    Ok((root, frame, there))
}

/// The file that a running frame was brought up with.
fn brought_up_with(root: &Root) -> Outcome<PathBuf> {
    match Holder::read(&root.lock()).and_then(|holder| holder.file) {
        Some(file) => Ok(file),
        None => refuse!("nobody knows the file that the frame was brought up with; name it"),
    }
}

fn table(changes: &[Change], before: &str, after: &str) -> Table {
    let mut table = Table::new(&["partition", "key", before, after, "takes effect"]);
    for change in changes {
        table.row([
            change.partition.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            if change.key.is_empty() { "-".to_owned() } else { plain(&change.key) },
            value(&change.key, &change.before),
            value(&change.key, &change.after),
            match change.when {
                When::Now => "at once".to_owned(),
                When::Activation => "at its next activation".to_owned(),
            },
        ]);
    }
    table
}

/// A value for people.
fn value(key: &str, value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        Value::Number(number) if key.starts_with("memory") => number.as_u64().map_or_else(|| number.to_string(), size),
        Value::Number(number) if key.contains(".units.") => {
            number.as_f64().map_or_else(|| number.to_string(), |units| Units::from(units).to_string())
        }
        other => plain(&other.to_string()),
    };
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_are_a_table_for_people() {
        let change = |key: &str, before: Value, after: Value, when| Change {
            partition: Some(Name::new("a").unwrap()),
            key: key.into(),
            before,
            after,
            when,
        };
        let changes = [
            change("", Value::Null, json!("declared"), When::Now),
            change("memory.desired", json!(64 << 20), json!(96 << 20), When::Activation),
            change("processors.units.desired", json!(0.2), json!(0.35), When::Now),
            change(
                "boot",
                json!({ "diagnostics": { "cmdline": "x".repeat(80) } }),
                json!("a\u{1b}b"),
                When::Activation,
            ),
        ];
        let lines = table(&changes, "before", "after").lines();
        let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(1), "a - - declared at once");
        assert_eq!(words(2), "a memory.desired 64MiB 96MiB at its next activation");
        assert_eq!(words(3), "a processors.units.desired 0.20 0.35 at once");
        assert!(lines[4].contains('…') && lines[4].contains("a?b"), "{}", lines[4]);
    }
}
