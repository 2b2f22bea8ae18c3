//! `ls`, `show`, `stat`: how the partitions stand.

use super::{json, print};
use crate::arguments::Common;
use crate::daemons::{Daemon, of};
use crate::failure::{Outcome, refuse};
use crate::roots;
use crate::show::{Table, field, plain, size, span};
use frame::api::{DEVICES, HOST_INTERRUPTS, INTERRUPTS, PARTITIONS, PartitionDetail, PartitionRow, PartitionStat};
use frame::device_row::DeviceRow;
use frame::interrupt::{InterruptRow, SourceState};
use frame::jail::JailReport;
use frame::name::Name;
use frame::steer::{HostInterruptRow, HostRoute};
use frame::units::Units;
use frame::wire::DeviceState;
use std::collections::BTreeMap;
use std::fmt::Write;

/// `lpar ls`.
///
/// # Errors
/// When no frame answers, or a field is not one.
pub fn ls(common: &Common, fields: Option<&[String]>, header: bool) -> Outcome {
    let root = roots::running(common)?;
    let rows: Vec<PartitionRow> = Daemon::manager(&root).get(PARTITIONS)?;
    match (fields, common.json) {
        (Some(fields), true) => {
            let picked: Vec<serde_json::Map<String, serde_json::Value>> = rows
                .iter()
                .map(|row| Ok(fields.iter().cloned().zip(pick(row, fields)?).collect()))
                .collect::<Outcome<_>>()?;
            json(&picked)
        }
        (None, true) => json(&rows),
        (Some(fields), false) => print(&values(&rows, fields, header)?),
        (None, false) => print(&partitions_table(&rows).to_string()),
    }
}

/// The values of `fields` in their order.
fn pick(row: &PartitionRow, fields: &[String]) -> Outcome<Vec<serde_json::Value>> {
    let all = serde_json::to_value(row)?;
    fields
        .iter()
        .map(|name| match all.get(name) {
            Some(value) => Ok(value.clone()),
            None => {
                let known: Vec<&str> =
                    all.as_object().into_iter().flat_map(serde_json::Map::keys).map(String::as_str).collect();
                refuse!("there is no field {name:?}; there are {}", known.join(", "))
            }
        })
        .collect()
}

fn values(rows: &[PartitionRow], fields: &[String], header: bool) -> Outcome<String> {
    let mut out = String::new();
    if header {
        out.push_str(&fields.join(","));
        out.push('\n');
    }
    for row in rows {
        let values: Vec<String> = pick(row, fields)?.iter().map(field).collect();
        out.push_str(&values.join(","));
        out.push('\n');
    }
    Ok(out)
}

/// The partitions as a table.
#[must_use]
pub fn partitions_table(rows: &[PartitionRow]) -> Table {
    let mut table =
        Table::new(&["name", ">id", "state", "mode", ">processors", ">units", ">memory", "cpus", ">uptime", "reason"]);
    for row in rows {
        table.row([
            row.name.to_string(),
            row.id.to_string(),
            row.state.to_string(),
            row.mode.clone(),
            row.processors.to_string(),
            Units::from(row.units).to_string(),
            size(row.memory),
            row.cpus.clone(),
            row.uptime.map_or_else(|| "-".to_owned(), span),
            row.reason.clone(),
        ]);
    }
    table
}

/// `lpar show NAME`.
///
/// # Errors
/// When no frame answers, or there is no such partition.
pub fn show(common: &Common, name: &Name) -> Outcome {
    let root = roots::running(common)?;
    let detail: PartitionDetail = Daemon::manager(&root).get(&of(name, ""))?;
    if common.json {
        return json(&detail);
    }
    let row = &detail.row;
    let mut out = String::new();
    let reason = if row.reason.is_empty() { String::new() } else { format!(" ({})", plain(&row.reason)) };
    // Writing into a string cannot fail.
    let _ = writeln!(out, "{} (id {}): {}{reason}", row.name, row.id, row.state);
    if let Some(pid) = row.pid {
        let up = row.uptime.map_or_else(|| "-".to_owned(), span);
        let _ = writeln!(out, "process {pid}, up {up}, start number {}", row.incarnation);
        let confined =
            if detail.cgroup.is_empty() { "nothing".to_owned() } else { detail.cgroup.join("\n            ") };
        let _ = writeln!(out, "confined in {confined}");
        if let Some(jail) = &detail.jail {
            let _ = writeln!(out, "jailed as {}", jailed(jail));
        }
    }
    if let Some(status) = row.exit_status {
        let _ = writeln!(out, "exit status {status}");
    }
    let _ = writeln!(out, "availability priority {}\n", row.availability_priority);
    let mut table = Table::new(&["resource", "declared", "assigned", "pending"]);
    for (name, resource) in &detail.resources {
        let cell = |value: &serde_json::Value| human(name, value);
        table.row([name.clone(), cell(&resource.declared), cell(&resource.assigned), cell(&resource.pending)]);
    }
    let _ = write!(out, "{table}");
    print(&out)
}

/// A jail for people.
fn jailed(jail: &JailReport) -> String {
    let own: Vec<&str> = jail.namespaces.iter().filter(|(_, own)| **own).map(|(kind, _)| kind.as_str()).collect();
    let own = if own.is_empty() { "none".to_owned() } else { own.join(" ") };
    let capabilities = if jail.capabilities == 0 { "none".to_owned() } else { format!("{:#x}", jail.capabilities) };
    let privileges = if jail.no_new_privileges { "none" } else { "possible" };
    format!(
        "user {}, group {}; capabilities {capabilities}, new privileges {privileges}; calls filtered in {} of {} threads; own namespaces {own}",
        jail.uid, jail.gid, jail.filtered, jail.threads,
    )
}

/// A value of a resource for people: memory in its units, objects without their quotes.
fn human(resource: &str, value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) if resource == "memory" => number.as_u64().map_or_else(|| number.to_string(), size),
        Value::Object(fields) => {
            // What is empty says nothing; a range reads from its least to its most.
            let rank = |key: &str| ["minimum", "desired", "maximum"].iter().position(|one| *one == key);
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| value.as_str() != Some("")).collect();
            fields.sort_by_key(|(key, _)| rank(key));
            let parts = fields.into_iter().map(|(key, value)| match key.as_str() {
                "pages" => format!("pages {}", human("memory", value)),
                _ => format!("{key} {}", human(resource, value)),
            });
            parts.collect::<Vec<_>>().join(" ")
        }
        Value::Array(values) => values.iter().map(|value| human(resource, value)).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// `lpar stat [NAME]`.
///
/// # Errors
/// When no frame answers, or there is no such partition.
pub fn stat(common: &Common, name: Option<&Name>) -> Outcome {
    let root = roots::running(common)?;
    let manager = Daemon::manager(&root);
    if let Some(name) = name {
        let stat: PartitionStat = manager.get(&of(name, "/stat"))?;
        return if common.json { json(&stat) } else { print(&stat_text(&[stat])) };
    }
    let rows: Vec<PartitionRow> = manager.get(PARTITIONS)?;
    let stats: Vec<PartitionStat> =
        rows.iter().map(|row| manager.get(&of(&row.name, "/stat"))).collect::<Result<_, _>>()?;
    if common.json { json(&stats) } else { print(&stat_text(&stats)) }
}

/// `lpar devices [NAME]`.
///
/// # Errors
/// When no frame answers, or there is no such partition.
pub fn devices(common: &Common, name: Option<&Name>) -> Outcome {
    let root = roots::running(common)?;
    let path = name.map_or_else(|| DEVICES.to_owned(), |name| format!("{DEVICES}?partition={name}"));
    let rows: Vec<DeviceRow> = Daemon::manager(&root).get(&path)?;
    if common.json { json(&rows) } else { print(&devices_table(&rows).to_string()) }
}

fn devices_table(rows: &[DeviceRow]) -> Table {
    let mut table = Table::new(&[
        "partition",
        "device",
        ">slot",
        "kind",
        "state",
        "io_uring",
        ">freezes",
        ">sent",
        ">received",
        "dropped",
        "last fault",
    ]);
    let of = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    for row in rows {
        let state = match row.state {
            DeviceState::Working => "works",
            DeviceState::Frozen => "frozen",
            DeviceState::Permanent => "failed",
        };
        let dropped = row.frames.map_or_else(
            || "-".to_owned(),
            |frames| {
                let some = frames.dropped().into_iter().filter(|(_, count)| *count > 0);
                let all: Vec<String> = some.map(|(reason, count)| format!("{reason}={count}")).collect();
                if all.is_empty() { "0".to_owned() } else { all.join(" ") }
            },
        );
        table.row([
            row.partition.to_string(),
            row.device.to_string(),
            row.slot.to_string(),
            row.kind.clone(),
            state.to_owned(),
            row.io_uring.map_or("-", |used| if used { "yes" } else { "no" }).to_owned(),
            row.freezes.to_string(),
            of(row.frames.map(|frames| frames.sent)),
            of(row.frames.map(|frames| frames.received)),
            dropped,
            row.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// `lpar interrupts --host`.
///
/// # Errors
/// When no frame answers.
pub fn host_interrupts(common: &Common, name: Option<&Name>) -> Outcome {
    let root = roots::running(common)?;
    let mut rows: Vec<HostInterruptRow> = Daemon::manager(&root).get(HOST_INTERRUPTS)?;
    if let Some(name) = name {
        rows.retain(|row| row.partition.as_ref() == Some(name));
    }
    if common.json {
        return json(&rows);
    }
    let mut table = Table::new(&[">interrupt", "name", "partition", "function", "wanted", "goes to", "state"]);
    let text = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for row in rows {
        table.row([
            row.interrupt.to_string(),
            plain(if row.name.is_empty() { "-" } else { &row.name }),
            text(row.partition.map(|name| name.to_string())),
            text(row.function),
            row.wanted.to_string(),
            row.cpus.to_string(),
            match (row.state, row.reason) {
                (HostRoute::Own, _) => "the partition's own".to_owned(),
                (HostRoute::Away, _) => "moved away".to_owned(),
                (HostRoute::Refused, reason) => plain(&format!("refused: {}", reason.unwrap_or_default())),
            },
        ]);
    }
    print(&table.to_string())
}

/// `lpar interrupts [NAME]`.
///
/// # Errors
/// When no frame answers, or there is no such partition.
pub fn interrupts(common: &Common, name: Option<&Name>) -> Outcome {
    let root = roots::running(common)?;
    let path = name.map_or_else(|| INTERRUPTS.to_owned(), |name| format!("{INTERRUPTS}?partition={name}"));
    let rows: Vec<InterruptRow> = Daemon::manager(&root).get(&path)?;
    if common.json { json(&rows) } else { print(&interrupts_table(&rows).to_string()) }
}

fn interrupts_table(rows: &[InterruptRow]) -> Table {
    let mut table = Table::new(&[
        ">source",
        "partition",
        "device",
        ">slot",
        ">vector",
        "state",
        ">processor",
        ">interrupt",
        ">delivered",
        ">masked",
        ">coalesced",
        ">storms",
        ">freezes",
        ">timed",
        ">median us",
        ">99% us",
    ]);
    let below = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), |end| format!("<{end}"));
    // Pins that no function ever raised would be most of the table.
    let idle = |row: &&InterruptRow| row.slot == 0 && row.delivered == 0 && row.device.as_str().starts_with("pin-");
    for row in rows.iter().filter(|row| !idle(row)) {
        let state = match row.state {
            SourceState::Enabled => "enabled",
            SourceState::Masked if row.pending => "masked, pending",
            SourceState::Masked => "masked",
            SourceState::Quarantined => "quarantined",
            SourceState::Frozen => "frozen",
            SourceState::Failed => "failed",
        };
        table.row([
            format!("{:#x}", row.source),
            row.partition.to_string(),
            row.device.to_string(),
            row.slot.to_string(),
            row.vector.to_string(),
            state.to_owned(),
            row.processor.map_or_else(|| "-".to_owned(), |processor| processor.to_string()),
            row.interrupt.map_or_else(|| "-".to_owned(), |interrupt| format!("{interrupt:#04x}")),
            row.delivered.to_string(),
            row.masked.to_string(),
            row.coalesced.to_string(),
            row.storms.to_string(),
            row.freezes.to_string(),
            if row.timed == 0 { "-".to_owned() } else { row.timed.to_string() },
            below(row.latency_median),
            below(row.latency_p99),
        ]);
    }
    table
}

fn stat_text(stats: &[PartitionStat]) -> String {
    let mut out = String::new();
    let mut table = Table::new(&["partition", ">processor", ">cpu time", ">exits"]);
    let mut costs = Table::new(&["partition", ">processor", "exit", ">count", ">handling", ">mean us"]);
    for stat in stats {
        for processor in &stat.processors {
            let exits: u64 = processor.exits.values().fold(0, |sum, count| sum.saturating_add(*count));
            let time = processor.cpu_time.map_or_else(|| "-".to_owned(), |time| span(time as f64 / 1e9));
            table.row([stat.name.to_string(), processor.processor.to_string(), time, exits.to_string()]);
            for (reason, count) in by_count(&processor.exits) {
                let spent = processor.exit_time.get(reason).copied().unwrap_or(0);
                costs.row([
                    stat.name.to_string(),
                    processor.processor.to_string(),
                    reason.to_owned(),
                    count.to_string(),
                    span(spent as f64 / 1e9),
                    format!("{:.2}", spent as f64 / 1e3 / count as f64),
                ]);
            }
        }
    }
    let mut memory = Table::new(&["partition", ">resident", ">console output"]);
    for stat in stats {
        memory.row([
            stat.name.to_string(),
            stat.resident.map_or_else(|| "-".to_owned(), size),
            size(stat.console_bytes),
        ]);
    }
    // Writing into a string cannot fail.
    let _ = write!(out, "{table}\n{costs}\n{memory}");
    out
}

/// The reasons that occurred with their counts, most frequent first.
fn by_count(exits: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    let mut counted: Vec<_> =
        exits.iter().map(|(name, count)| (name.as_str(), *count)).filter(|(_, count)| *count > 0).collect();
    counted.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    counted
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::api::ProcessorStat;
    use frame::state::State;
    use frame::units::MIB;
    use serde_json::json;

    fn row(name: &str, reason: &str) -> PartitionRow {
        PartitionRow {
            name: Name::new(name).unwrap(),
            id: 1,
            state: State::NotActivated,
            reason: reason.into(),
            processors: 2,
            units: 0.4,
            memory: 64 * MIB,
            mode: "shared".into(),
            cpus: "0,2".into(),
            availability_priority: 127,
            pid: None,
            incarnation: 0,
            uptime: None,
            exit_status: None,
        }
    }

    #[test]
    fn values_come_in_the_order_asked_for() {
        let rows = [row("a", ""), row("b", "signal 9, killed")];
        let fields: Vec<String> = ["name", "state", "cpus", "memory", "pid", "reason"].map(String::from).into();
        assert_eq!(
            values(&rows, &fields, true).unwrap(),
            "name,state,cpus,memory,pid,reason\na,Not Activated,\"0,2\",67108864,null,\nb,Not Activated,\"0,2\",67108864,null,\"signal 9, killed\"\n"
        );
        let error = values(&rows, &["nmae".into()], false).unwrap_err().to_string();
        assert!(error.contains("nmae") && error.contains("availability_priority"), "{error}");
    }

    #[test]
    fn tables_are_for_people() {
        let table = partitions_table(&[row("alpha", "")]).to_string();
        assert_eq!(
            table,
            "name   id  state          mode    processors  units  memory  cpus  uptime  reason\nalpha   1  Not Activated  shared           2   0.40   64MiB  0,2        -\n"
        );
    }

    #[test]
    fn resources_are_for_people() {
        assert_eq!(human("memory", &json!(67108864)), "64MiB");
        assert_eq!(human("processors", &json!(2)), "2");
        assert_eq!(human("cpus", &json!(null)), "-");
        assert_eq!(human("memory", &json!({"minimum": 1048576, "desired": 2097152})), "minimum 1MiB desired 2MiB");
        assert_eq!(human("boot", &json!({"boot": "diagnostics", "cmdline": ""})), "boot diagnostics");
        assert_eq!(human("extents", &json!([{"blocks": 3, "pages": 4096}])), "blocks 3 pages 4KiB");
    }

    #[test]
    fn frequent_exits_come_first_with_their_cost() {
        let of = |pairs: [(&str, u64); 3]| pairs.map(|(name, value)| (name.to_owned(), value)).into();
        let processor = ProcessorStat {
            processor: 0,
            exits: of([("halt", 3), ("io_in", 8), ("mmio_read", 0)]),
            exit_time: of([("halt", 1_500), ("io_in", 10_000), ("mmio_read", 0)]),
            cpu_time: None,
        };
        let stat = PartitionStat {
            name: Name::new("alpha").unwrap(),
            processors: vec![processor],
            console_bytes: 0,
            resident: None,
        };
        let text = stat_text(&[stat]);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let at = |reason: &str| rows.iter().position(|row| row.get(2) == Some(&reason)).unwrap();
        assert!(at("io_in") < at("halt") && !text.contains("mmio_read"), "{text}");
        assert_eq!((rows[at("io_in")][3], rows[at("io_in")].last()), ("8", Some(&"1.25")), "{text}");
        assert_eq!((rows[at("halt")][3], rows[at("halt")].last()), ("3", Some(&"0.50")), "{text}");
    }
}
