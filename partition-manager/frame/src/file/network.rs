//! The network of the file: `[[switch]]`, and `[[partition.network]]`.

use super::device::{Taken, limit, once};
use super::fields::{At, Fields};
use super::near::nearest;
use super::sink::Sink;
use super::spans::{Keys, Spans};
use super::walk::Named;
use crate::declare::{Frame, Network, Switch};
use crate::device::{LARGEST_VLAN, LONGEST_SWITCH_NAME, MOST_QUEUE_PAIRS, MOST_TAGGED, MOST_TAPS};
use crate::diagnostic::{Diagnostic, shown};
use crate::mac::Mac;
use crate::name::Name;
use crate::plan::Subject;
use crate::rule;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Most switches of one frame.
pub(crate) const MOST_SWITCHES: usize = 256;
/// Longest name of a network interface, bytes (Linux, IFNAMSIZ less its final zero).
const LONGEST_INTERFACE: usize = 15;

/// A switch as it is declared.
pub(super) struct DeclaredSwitch {
    pub(super) switch: Named<Switch>,
    /// Where the uplink stands.
    uplink: Option<Range<usize>>,
}

/// Reads one `[[switch]]`.
pub(super) fn switch(mut fields: Fields<'_, '_>, number: usize, sink: &mut Sink) -> DeclaredSwitch {
    let name = fields.name(sink, "name");
    match &name {
        Some(name) => {
            let length = name.value.as_str().len();
            if length > LONGEST_SWITCH_NAME {
                let message =
                    format!("a switch's name has at most {LONGEST_SWITCH_NAME} characters, this one has {length}");
                sink.push(Diagnostic::of(rule::SWITCH_NAME, message).at(name.span.clone(), "too long"));
            }
        }
        None if !fields.has("name") => fields.missing(sink, "name", "give the switch a name: name = \"lan\""),
        None => {}
    }
    let uplink = fields.text(sink, "uplink", "the name of a network interface in quotes");
    let uplink = uplink.filter(|uplink| {
        let suits = is_interface(uplink.value);
        if !suits {
            let message = format!("{} cannot be a network interface of the host", shown(uplink.value));
            let label = format!("1 to {LONGEST_INTERFACE} characters without spaces, '/' and ':'");
            sink.push(Diagnostic::of(rule::BAD_UPLINK, message).at(uplink.span.clone(), label));
        }
        suits
    });
    fields.finish(sink, &[("vlan", rule::UNKNOWN_KEY, "each [[partition.network]] has its own")]);
    let (name, place) = match name {
        Some(name) => (name.value, Some(name.span)),
        None => (Name::placeholder(number), None),
    };
    let (uplink, at) = match uplink {
        Some(uplink) => (Some(uplink.value.to_owned()), Some(uplink.span)),
        None => (None, None),
    };
    DeclaredSwitch { switch: Named { item: Switch { name, uplink }, place }, uplink: at }
}

/// Whether the kernel takes the name (Linux, net/core/dev.c: `dev_valid_name`).
fn is_interface(text: &str) -> bool {
    let suits = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    (1..=LONGEST_INTERFACE).contains(&text.len()) && text.chars().all(suits) && text != "." && text != ".."
}

/// Reads the adapters of a partition.
pub(super) fn networks(
    fields: &mut Fields<'_, '_>,
    sink: &mut Sink,
    keys: &mut Keys,
    taken: &mut Taken,
) -> Vec<Network> {
    let tables = fields.tables(sink, "network", super::device::MOST_DISKS);
    let mut networks = vec![];
    for table in tables {
        networks.extend(network(table, sink, keys, taken));
    }
    networks
}

fn network(mut fields: Fields<'_, '_>, sink: &mut Sink, keys: &mut Keys, taken: &mut Taken) -> Option<Network> {
    fields.rename("[[partition.network]]".into());
    let name = taken.name(&mut fields, "network", sink);
    let switch = fields.name(sink, "switch");
    if !fields.has("switch") {
        fields.missing(sink, "switch", "name a [[switch]] of the frame: switch = \"lan\"");
    }
    let all = 1..=u32::from(LARGEST_VLAN);
    let vlan = fields.number(sink, "vlan", all.clone());
    if !fields.has("vlan") {
        fields.missing(sink, "vlan", "say which VLAN its frames without a tag are in: vlan = 1");
    }
    let mut seen: Vec<At<u32>> = vlan.iter().cloned().collect();
    for tagged in fields.numbers(sink, "tagged", &all, MOST_TAGGED) {
        let twice = || format!("VLAN {} is declared twice for one adapter", tagged.value);
        once(rule::DUPLICATE_VLAN, &mut seen, &tagged, twice, sink);
    }
    let port = vlan.and_then(|at| u16::try_from(at.value).ok());
    let mut tagged: Vec<u16> = seen.iter().filter_map(|at| u16::try_from(at.value).ok()).collect();
    tagged.retain(|vlan| Some(*vlan) != port);
    tagged.sort_unstable();
    let mac = fields.text(sink, "mac", "an address in quotes, such as \"02:00:00:00:00:01\"").and_then(|text| {
        Mac::parse(text.value)
            .map_err(|why| {
                let message = format!("{} is not the address of an adapter: {why}", shown(text.value));
                sink.push(Diagnostic::of(rule::BAD_MAC, message).at(text.span, "this address"));
            })
            .ok()
    });
    let queues = fields.number(sink, "queues", 1..=MOST_QUEUE_PAIRS.into());
    if let Some(queues) = &queues
        && queues.value as usize * (1 + tagged.len()) > MOST_TAPS
    {
        let message = format!("{} queue pairs over {} VLANs are too many", queues.value, 1 + tagged.len());
        let label = format!("the product is at most {MOST_TAPS}");
        sink.push(Diagnostic::of(rule::TOO_MANY_TAPS, message).at(queues.span.clone(), label));
    }
    let slot = taken.slot(&mut fields, sink);
    let (operations, bandwidth) = limit(&mut fields, sink);
    if let Some(name) = &name {
        let place = |key: &str| fields.span_of(key).unwrap_or_else(|| name.span.clone());
        keys.note(&format!("network.{}", name.value), name.span.clone());
        keys.note(&format!("network.{}.switch", name.value), place("switch"));
        keys.note(&format!("network.{}.mac", name.value), place("mac"));
    }
    fields.finish(sink, &[]);
    let queues = queues.and_then(|at| u8::try_from(at.value).ok()).unwrap_or(1);
    let (name, switch) = (name?.value, switch?.value);
    Some(Network { name, switch, vlan: port?, tagged, mac, queues, slot, operations, bandwidth })
}

/// Names and uplinks of switches that are declared twice.
pub(super) fn duplicates(switches: &[DeclaredSwitch], sink: &mut Sink) {
    let (mut names, mut uplinks) = (vec![], vec![]);
    for DeclaredSwitch { switch, uplink } in switches {
        if let Some(span) = &switch.place {
            let name = At { value: switch.item.name.clone(), span: span.clone() };
            let message = || format!("the switch name {} is declared twice", name.value);
            once(rule::DUPLICATE_SWITCH, &mut names, &name, message, sink);
        }
        if let (Some(value), Some(span)) = (&switch.item.uplink, uplink) {
            let uplink = At { value: value.clone(), span: span.clone() };
            let message = || format!("the uplink {value} is declared twice");
            once(rule::DUPLICATE_UPLINK, &mut uplinks, &uplink, message, sink);
        }
    }
}

/// Adapters on switches that are not declared, and two of one address on one switch.
pub(super) fn check(frame: &Frame, spans: &Spans, all_switches_known: bool, sink: &mut Sink) {
    let declared: BTreeSet<&Name> = frame.switches.iter().map(|switch| &switch.name).collect();
    let mut addresses: BTreeMap<(&Name, Mac), (Range<usize>, String)> = BTreeMap::new();
    let all = frame.partitions.iter().flat_map(|partition| partition.networks.iter().map(move |one| (partition, one)));
    for (partition, network) in all {
        if sink.is_full() {
            sink.drop_more(1);
            continue;
        }
        let place = |key: &str| {
            let key = format!("network.{}.{key}", network.name);
            spans.find(&Subject::Partition(partition.name.clone()), &key).unwrap_or(0..0)
        };
        let Network { name, switch, .. } = network;
        if !declared.contains(switch) && all_switches_known {
            let near = nearest(switch.as_str(), frame.switches.iter().map(|switch| switch.name.as_str()));
            let label = near.map_or_else(|| "no such switch".into(), |near| format!("did you mean {near}?"));
            let message =
                format!("adapter {name} of partition {} is on switch {switch}, which is not declared", partition.name);
            let help = format!("declare it: [[switch]] with name = \"{switch}\"");
            sink.push(Diagnostic::of(rule::SWITCH_MISSING, message).at(place("switch"), label).help(help));
        }
        let mac = network.address(&frame.name, &partition.name);
        let who = format!("adapter {name} of partition {}", partition.name);
        match addresses.get(&(switch, mac)) {
            Some((first, other)) => {
                let message = format!("{other} and {who} both have the address {mac} on switch {switch}");
                let diagnostic = Diagnostic::of(rule::DUPLICATE_MAC, message).at(place("mac"), "again here");
                let first = first.clone();
                sink.push(if first == place("mac") { diagnostic } else { diagnostic.see(first, "first here") });
            }
            None => {
                addresses.insert((switch, mac), (place("mac"), who));
            }
        }
    }
}
