//! The JSON Schema and the reader agree: what one knows the other knows.

use frame::diagnostic::Severity;
use frame::{file, form};
use serde_json::{Value, json};
use std::path::Path;

/// Rules that are about one value alone, or about which keys there are: a schema can express them.
const OF_FORM: [&str; 9] = [
    "unknown-key",
    "missing-key",
    "wrong-type",
    "bad-choice",
    "out-of-range",
    "bad-name",
    "bad-size",
    "bad-duration",
    "boot-form",
];

/// Frames that use every key, and are right.
fn frames() -> Vec<Value> {
    let dedicated = json!({
        "frame": {
            "name": "rack7", "cpus": "0-15", "memory_block": "2MiB", "minimum_units": 0.01, "shared_host": true,
            "reserved": { "cpus": 1, "memory": "1GiB" },
        },
        "pool": [{ "name": "default", "cpus": 2 }],
        "switch": [{ "name": "lan", "uplink": "eth1" }],
        "partition": [{
            "disk": [{
                "name": "root", "path": "root.img", "read_only": true, "serial": "one", "slot": 9,
                "limit": { "operations": 100, "bandwidth": "1MiB" },
            }],
            "network": [{
                "name": "lan0", "switch": "lan", "vlan": 10, "tagged": [20, 30], "mac": "02:00:00:00:00:01", "queues": 2,
                "slot": 10, "limit": { "operations": 100, "bandwidth": "1MiB" },
            }],
            "name": "db", "id": 7, "availability_priority": 200, "auto_start": true, "when_inactive": "release",
            "pit": true, "exit_device": true, "panic_device": true, "watchdog": "restart", "interrupts": "kernel",
            "interrupt_limit": { "rate": 50000, "burst": 1000 },
            "processors": { "mode": "dedicated", "minimum": 1, "desired": 2, "maximum": 4, "io": "pool:default" },
            "memory": { "minimum": "256MiB", "desired": "1GiB", "maximum": "2GiB", "base": "256MiB", "pages": "2MiB" },
            "boot": {
                "kernel": "vmlinuz", "initrd": "initrd.img", "cmdline": "console=ttyS0",
                "modules": [{ "path": "module.bin", "cmdline": "one" }],
            },
            "shutdown": { "ask": "1s", "button": "500ms", "nmi": "2min" },
        }],
    });
    let shared = json!({
        "frame": { "name": "small" },
        "pool": [{ "name": "default", "cpus": 1 }],
        "partition": [{
            "name": "batch",
            "processors": {
                "mode": "shared", "pool": "default", "minimum": 1, "desired": 2, "maximum": 2, "sharing": "uncapped",
                "weight": 64, "units": { "minimum": 0.1, "desired": 0.4, "maximum": 1.5 },
            },
            "memory": { "desired": "64MiB" },
            "boot": { "payload": "diagnostics", "cmdline": "beat=5" },
        }, {
            "name": "plain",
            "processors": { "mode": "shared", "desired": 1, "sharing": "capped", "units": { "desired": 0.4 } },
            "memory": { "desired": "64MiB" },
            "boot": "diagnostics",
        }],
    });
    let many = json!({
        "frame": { "name": "many" },
        "defaults": {
            "processors": { "mode": "shared", "desired": 1, "units": { "desired": 0.1 } },
            "memory": { "desired": "64MiB" },
            "boot": "diagnostics",
        },
        "pool": [{ "name": "default", "cpus": 1 }],
        "partition": [{ "name": "web-{n:02}", "count": 5 }, { "name": "one", "memory": { "minimum": "32MiB" } }],
    });
    vec![dedicated, shared, many]
}

/// Values that are right somewhere and wrong elsewhere. No fraction is a whole number: JSON Schema takes 1.0 for an
/// integer, TOML does not.
fn values() -> Vec<Value> {
    let texts = ["", "own", "pool:default", "diagnostics", "shared", "dedicated", "capped", "hold", "any", "4KiB"];
    let texts = texts.into_iter().chain(["2 GiB", "5s", "5", "5MB", "UPPER", "a-b", "-a", "0-3", "3-", "no way"]);
    let numbers = [-1_i64, 0, 1, 64, 65, 255, 256, 65_535, 65_536, 1 << 40].map(Value::from);
    let others = [json!(0.5), json!(1.5), json!(true), json!([]), json!([1]), json!([{}]), json!({})];
    texts.map(Value::from).chain(numbers).chain(others).collect()
}

/// Every place of a document, as JSON pointers.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), all)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| places(value, &format!("{at}/{index}"), all));
        }
        _ => {}
    }
}

fn text_of(document: &Value) -> String {
    toml::to_string(document).unwrap_or_else(|error| panic!("{document} is no TOML: {error}"))
}

/// What the reader has against a document: the rules of its errors.
fn objections(document: &Value) -> Vec<String> {
    let text = text_of(document);
    let reading = file::read(&text);
    let errors = reading.diagnostics.iter().filter(|one| one.severity == Severity::Error);
    errors.map(|one| one.rule.to_string()).collect()
}

#[track_caller]
fn agree(validator: &jsonschema::Validator, document: &Value, what: &str) {
    let objections = objections(document);
    let valid = validator.is_valid(document);
    let text = || text_of(document);
    assert!(valid || !objections.is_empty(), "{what}: only the schema refuses\n{}", text());
    // With defaults a key may come from there, which a schema cannot follow.
    let elsewhere = document.get("defaults").is_some_and(Value::is_object);
    let missed = |rule: &str| elsewhere && ["missing-key", "boot-form"].contains(&rule);
    let of_form = objections.iter().find(|rule| OF_FORM.contains(&rule.as_str()) && !missed(rule));
    assert!(!valid || of_form.is_none(), "{what}: only the reader refuses, by {of_form:?}\n{}", text());
}

#[test]
fn what_is_checked_in_is_what_the_types_say() {
    for (name, schema) in [("frame", form::schema()), ("included", form::included_schema())] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../configs/{name}.schema.json"));
        let held = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            held == form::text(&schema),
            "configs/{name}.schema.json is not up to date; write it anew: \
             cargo run -p frame --features schema --example schema {name} > configs/{name}.schema.json"
        );
    }
}

#[test]
fn what_is_right_pleases_both() {
    let validator = jsonschema::draft7::new(&form::schema()).unwrap();
    for document in frames() {
        assert_eq!(objections(&document), Vec::<String>::new());
        let errors: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new());
    }
}

#[test]
fn every_example_pleases_the_schema() {
    let validator = jsonschema::draft7::new(&form::schema()).unwrap();
    let included = jsonschema::draft7::new(&form::included_schema()).unwrap();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let document: Value = toml::from_str(&text).unwrap();
            let validator = if document.get("frame").is_some() { &validator } else { &included };
            let errors: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
            assert_eq!(errors, Vec::<String>::new(), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 2);
}

#[test]
fn any_value_at_any_place_is_judged_alike() {
    let validator = jsonschema::draft7::new(&form::schema()).unwrap();
    for document in frames() {
        let mut all = vec![];
        places(&document, "", &mut all);
        for place in all.iter().filter(|place| !place.is_empty()) {
            for value in values() {
                let mut changed = document.clone();
                *changed.pointer_mut(place).unwrap() = value.clone();
                agree(&validator, &changed, &format!("{value} at {place}"));
            }
        }
    }
}

#[test]
fn any_key_at_any_place_is_judged_alike() {
    let validator = jsonschema::draft7::new(&form::schema()).unwrap();
    let mut keys = vec![];
    for document in frames() {
        let mut all = vec![];
        places(&document, "", &mut all);
        keys.extend(all.into_iter().filter_map(|place| {
            let key = place.rsplit('/').next()?.to_owned();
            let plain = !key.is_empty() && key.bytes().any(|byte| byte.is_ascii_lowercase());
            plain.then(|| (key, document.pointer(&place).cloned().unwrap_or_default()))
        }));
    }
    // Keys that neither has, and one of each that belongs to no frame above.
    keys.push(("colour".into(), json!("red")));
    keys.push(("Name".into(), json!("a")));
    for document in frames() {
        let mut all = vec![];
        places(&document, "", &mut all);
        for place in &all {
            for (key, value) in &keys {
                let mut changed = document.clone();
                let Some(table) = changed.pointer_mut(place).and_then(Value::as_object_mut) else { continue };
                table.insert(key.clone(), value.clone());
                agree(&validator, &changed, &format!("{key} in {place:?}"));
            }
        }
    }
}

#[test]
fn any_key_that_is_left_out_is_missed_alike() {
    let validator = jsonschema::draft7::new(&form::schema()).unwrap();
    for document in frames() {
        let mut all = vec![];
        places(&document, "", &mut all);
        for place in &all {
            let Some((parent, key)) = place.rsplit_once('/') else { continue };
            let mut changed = document.clone();
            if let Some(table) = changed.pointer_mut(parent).and_then(Value::as_object_mut) {
                table.remove(key);
                agree(&validator, &changed, &format!("without {place}"));
            }
        }
    }
}
