//! Defaults, patterns and includes: what they mean.

use crate::support::{Files, broken, place};
use frame::declare::{Boot, Frame, Partition, ProcessorMode, Sharing};
use frame::diagnostic::Severity;
use frame::file::{
    Included, LARGEST_FILE, LARGEST_SUM, Library, MOST_INCLUDED, Unavailable, json, read, read_bytes, render,
};
use frame::units::{MIB, Units};
use std::path::Path;

const HEAD: &str = "[frame]\nname = \"f\"\n[[pool]]\nname = \"default\"\ncpus = 4\n";

fn frame(text: &str) -> Frame {
    let reading = read(&format!("{HEAD}{text}"));
    assert!(reading.diagnostics.is_empty(), "{}", render(&reading.diagnostics, &reading.sources));
    reading.frame.unwrap()
}

fn rules(text: &str) -> Vec<&'static str> {
    broken(&read(&format!("{HEAD}{text}")))
}

fn named<'f>(frame: &'f Frame, name: &str) -> &'f Partition {
    frame.partitions.iter().find(|partition| partition.name.as_str() == name).unwrap()
}

const DEFAULTS: &str = r#"
[defaults]
availability_priority = 9
processors = { mode = "shared", desired = 2, units = { minimum = 0.1, desired = 0.4 }, weight = 7 }
memory = { minimum = "32MiB", desired = "64MiB", maximum = "128MiB" }
boot = { kernel = "vmlinuz", cmdline = "quiet" }
[defaults.shutdown]
ask = "1s"
"#;

#[test]
fn defaults_stand_below_each_partition_key_by_key() {
    let frame = frame(&format!(
        r#"{DEFAULTS}
[[partition]]
name = "plain"
[[partition]]
name = "own"
availability_priority = 10
processors = {{ units = {{ desired = 0.5 }}, weight = 8 }}
memory = {{ desired = "96MiB" }}
boot = {{ cmdline = "debug" }}
shutdown = {{ nmi = "3s" }}
"#
    ));
    let (plain, own) = (named(&frame, "plain"), named(&frame, "own"));
    assert_eq!((plain.availability_priority, own.availability_priority), (9, 10));
    let ProcessorMode::Shared { units, sharing, .. } = &own.processors.mode else { panic!("{own:?}") };
    assert_eq!((units.minimum, units.desired), (Units::from(0.1), Units::from(0.5)));
    assert_eq!((*sharing, own.processors.count.desired), (Sharing::Uncapped { weight: 8 }, 2));
    assert_eq!(
        (own.memory.size.minimum, own.memory.size.desired, own.memory.size.maximum),
        (32 * MIB, 96 * MIB, 128 * MIB)
    );
    assert!(
        matches!(&own.boot, Boot::Kernel { kernel, cmdline, .. } if kernel == Path::new("vmlinuz") && cmdline == "debug")
    );
    assert_eq!((own.shutdown.ask_ms, own.shutdown.nmi_ms, plain.shutdown.ask_ms), (1000, 3000, 1000));
}

#[test]
fn another_form_takes_the_place_of_the_defaults() {
    let frame = frame(&format!(
        r#"{DEFAULTS}
[[partition]]
name = "payload"
boot = "diagnostics"
[[partition]]
name = "told"
boot = {{ payload = "diagnostics" }}
[[partition]]
name = "dedicated"
processors = {{ mode = "dedicated", desired = 1 }}
"#
    ));
    assert_eq!(named(&frame, "payload").boot, Boot::Diagnostics { cmdline: String::new() });
    assert_eq!(named(&frame, "told").boot, Boot::Diagnostics { cmdline: String::new() });
    let dedicated = &named(&frame, "dedicated").processors;
    assert!(matches!(dedicated.mode, ProcessorMode::Dedicated { .. }));
    assert_eq!(dedicated.count.maximum, 1);
}

#[test]
fn a_mistake_in_the_defaults_is_told_once_and_there() {
    let many: String = (0..20).map(|n| format!("[[partition]]\nname = \"p{n}\"\n")).collect();
    let text = format!("{HEAD}{}{many}", DEFAULTS.replace("\"64MiB\"", "\"63MiB\"").replace("weight", "wieght"));
    let reading = read(&text);
    assert_eq!(
        broken(&reading),
        ["unknown-key", "not-a-multiple"],
        "{}",
        render(&reading.diagnostics, &reading.sources)
    );
    let lines: Vec<usize> = reading.diagnostics.iter().map(|d| place(&reading, d.start().unwrap()).1).collect();
    let line = |word: &str| text.lines().position(|line| line.contains(word)).unwrap() + 1;
    assert_eq!(lines, [line("wieght"), line("63MiB")]);
    // Also when nobody uses them.
    assert_eq!(rules("[defaults]\nauto_start = 1\n"), ["wrong-type"]);
}

#[test]
fn defaults_need_not_be_whole() {
    // Alone these would not suit; no partition ever sees them alone.
    let frame = frame(
        "[defaults]\nprocessors = { mode = \"shared\", desired = 8, units = { desired = 0.1 } }\nmemory = { base = \"64MiB\" }\nboot = { cmdline = \"run=ignore-nmi\" }\n\
         [[partition]]\nname = \"a\"\nprocessors = { units = { desired = 0.8 } }\nmemory = { desired = \"64MiB\" }\nboot = { payload = \"diagnostics\" }\n",
    );
    assert_eq!(frame.partitions.len(), 1);
    let alone = "[defaults]\nprocessors = { mode = \"shared\", desired = 8, units = { desired = 0.1 } }\nmemory = { desired = \"2MiB\" }\nboot = \"diagnostics\"\n";
    assert_eq!(rules(alone), Vec::<&str>::new());
    assert_eq!(rules(&format!("{alone}[[partition]]\nname = \"a\"\n[[partition]]\nname = \"b\"\n")), ["units-too-few"]);
}

const PATTERN: &str = r#"
[[partition]]
name = "web-{n:03}"
count = 50
processors = { mode = "shared", desired = 1, units = { desired = 0.05 } }
memory = { desired = "2MiB" }
boot = { kernel = "k/{n}/vmlinuz", initrd = "i-{n:02}", cmdline = "id={n} {\"a\":{\"b\":1}}", modules = [{ path = "m{n}", cmdline = "n={n}" }] }
"#;

#[test]
fn a_pattern_makes_its_partitions() {
    let frame = frame(PATTERN);
    assert_eq!(frame.partitions.len(), 50);
    let Boot::Kernel { kernel, initrd, modules, cmdline } = &named(&frame, "web-007").boot else { panic!() };
    assert_eq!((kernel.as_path(), initrd.as_deref()), (Path::new("k/7/vmlinuz"), Some(Path::new("i-07"))));
    assert_eq!((modules[0].path.as_path(), modules[0].cmdline.as_str()), (Path::new("m7"), "n=7"));
    assert_eq!(cmdline, "id=7 {\"a\":{\"b\":1}}");
    let ids: std::collections::BTreeSet<u32> = frame.partitions.iter().map(|partition| partition.id).collect();
    assert_eq!(ids, (1..=50).collect());
}

#[test]
fn a_mistake_in_a_pattern_is_told_once() {
    assert_eq!(rules(&PATTERN.replace("\"2MiB\"", "\"3MiB\"")), ["not-a-multiple"]);
    assert_eq!(rules(&PATTERN.replace("mode = \"shared\"", "mode = \"shared\", pool = \"x\"")), ["pool-missing"]);
    assert_eq!(rules(&format!("{PATTERN}{PATTERN}").replace("count = 50", "count = 30")), ["duplicate-name"]);
    assert_eq!(rules(&PATTERN.replace("count = 50", "count = 0")), ["out-of-range"]);
    assert_eq!(rules(&PATTERN.replace("id={n}", "id={m}")), ["placeholder-unknown"]);
    assert_eq!(rules(&PATTERN.replace("web-", &"w".repeat(61))), ["name-too-long"]);
    let single =
        format!("{PATTERN}[[partition]]\nname = \"web-050\"\n{}", PATTERN.split_once("count = 50\n").unwrap().1);
    // {n} in paths and command lines is as wrong there as in a name.
    let found = rules(&single);
    assert!(found.contains(&"duplicate-name") && found.contains(&"pattern-without-count"), "{found:?}");
}

#[test]
fn a_partition_with_a_mistake_is_still_held_against_the_others() {
    let one = |name: &str, id: u32, units: &str| {
        format!(
            "[[partition]]\nname = \"{name}\"\nid = {id}\nprocessors = {{ mode = \"shared\", desired = 4, units = {{ desired = {units} }} }}\nmemory = {{ desired = \"3MiB\" }}\nboot = \"diagnostics\"\n"
        )
    };
    let mut found = rules(&format!("{}{}", one("A", 3, "3.0"), one("b", 3, "2.0")));
    found.sort_unstable();
    assert_eq!(found, ["bad-name", "duplicate-id", "not-a-multiple", "not-a-multiple", "units-exceeded"]);
}

#[test]
fn an_included_file_has_its_own_defaults_and_directory() {
    let root = format!(
        "include = [\"sub/t.toml\"]\n{HEAD}[defaults]\navailability_priority = 5\nwhen_inactive = \"release\"\nboot = {{ kernel = \"vmlinuz\" }}\nprocessors = {{ mode = \"shared\", desired = 1, units = {{ desired = 0.1 }} }}\n"
    );
    let tenant = "include = [\"deeper/u.toml\"]\n[defaults]\navailability_priority = 6\nmemory = { desired = \"2MiB\" }\n[[partition]]\nname = \"t-{n}\"\ncount = 3\n[[partition]]\nname = \"own\"\nboot = { initrd = \"i\" }\n";
    let deeper = "[[partition]]\nname = \"u\"\nboot = { kernel = \"k\" }\n";
    let files = Files::of(&[("frame.toml", &root), ("sub/t.toml", tenant), ("sub/deeper/u.toml", deeper)]);
    let reading = files.read();
    assert!(reading.diagnostics.is_empty(), "{}", render(&reading.diagnostics, &reading.sources));
    let frame = reading.frame.unwrap().with_paths_from(Path::new("/etc/f"));
    assert_eq!(frame.partitions.len(), 5);
    let kernel = |name: &str| match &named(&frame, name).boot {
        Boot::Kernel { kernel, initrd, .. } => (kernel.display().to_string(), initrd.clone()),
        other => panic!("{other:?}"),
    };
    // A path begins at the directory of the file that it is written in.
    assert_eq!(kernel("t-1").0, "/etc/f/vmlinuz");
    assert_eq!(kernel("own"), ("/etc/f/vmlinuz".into(), Some("/etc/f/sub/i".into())));
    assert_eq!(kernel("u").0, "/etc/f/sub/deeper/k");
    assert_eq!((named(&frame, "u").availability_priority, named(&frame, "u").memory.size.desired), (6, 2 * MIB));
    let included: Vec<String> = reading.sources.included().map(|source| source.path.display().to_string()).collect();
    assert_eq!(included, ["sub/t.toml", "sub/deeper/u.toml"]);
}

#[test]
fn json_names_the_included_file_and_both_claimants() {
    let root = format!(
        "include = [\"t.toml\"]\n{HEAD}[[partition]]\nname = \"a\"\nprocessors = {{ mode = \"dedicated\", desired = 1 }}\nmemory = {{ desired = \"2MiB\" }}\nboot = \"diagnostics\"\n"
    );
    let tenant = "[[partition]]\nname = \"a\"\nprocessors = { mode = \"dedicated\", desired = 1 }\nmemory = { desired = \"2MiB\" }\nboot = \"diagnostics\"\n";
    let reading = Files::of(&[("frame.toml", &root), ("t.toml", tenant)]).read();
    let json = json(&reading.diagnostics, &reading.sources);
    let one = &json[0];
    let place = |of: &serde_json::Value| {
        let number = |key: &str| of[key].as_u64().unwrap();
        (
            of["file"].as_str().unwrap().to_owned(),
            number("line"),
            number("column"),
            number("end_line"),
            number("end_column"),
        )
    };
    assert_eq!((one["rule"].as_str(), one["severity"].as_str()), (Some("duplicate-name"), Some("error")));
    assert_eq!(place(one), ("t.toml".into(), 2, 8, 2, 11));
    assert_eq!(place(&one["claimants"][1]), ("frame.toml".into(), 8, 8, 8, 11));
    assert!(one["remedy"].as_str().is_some_and(|remedy| remedy.contains("rename")));
    assert!(one["message"].as_str().is_some_and(|message| message.contains("partition name a")));
}

#[test]
fn ten_thousand_partitions_can_be_written_out() {
    let text: String = (0..10_000)
        .map(|n| {
            format!("[[partition]]\nname = \"tenant-{n}\"\nprocessors = {{ mode = \"dedicated\", minimum = 1, desired = 2, maximum = 4 }}\nmemory = {{ minimum = \"256MiB\", desired = \"512MiB\", maximum = \"1GiB\" }}\nboot = {{ kernel = \"/boot/vmlinuz\", initrd = \"/boot/initrd-{n}.img\", cmdline = \"console=ttyS0 tenant={n}\" }}\n")
        })
        .collect();
    let frame = frame(&text);
    assert_eq!((frame.partitions.len(), frame.partitions[9_999].name.as_str()), (10_000, "tenant-9999"));
}

#[test]
fn what_grows_with_defaults_and_partitions_does_not_multiply() {
    // A hundred thousand mistakes of the defaults are not looked at again for each of many partitions.
    let keys: String = (0..100_000).map(|n| format!("k{n} = 1\n")).collect();
    let many = "[[partition]]\nname = \"a\"\n".repeat(60_000);
    let reading = read(&format!("{HEAD}[defaults]\n{keys}{many}"));
    assert_eq!(reading.diagnostics.len(), 101);
    // Nor are the texts of the defaults copied without end.
    let cmdline = "x".repeat(2000);
    let modules = format!("{{ path = \"m\", cmdline = \"{cmdline}\" }},").repeat(32);
    let many = "[[partition]]\nname = \"a{n}\"\ncount = 65535\n".repeat(50);
    let text = format!(
        "{HEAD}[defaults]\nprocessors = {{ mode = \"dedicated\", desired = 1 }}\nmemory = {{ desired = \"2MiB\" }}\nboot = {{ kernel = \"k\", modules = [{modules}] }}\n{many}"
    );
    assert_eq!(broken(&read(&text)), ["text-too-large"]);
}

#[test]
fn many_warnings_refuse_nothing_and_hide_no_error() {
    let partition = |n: usize| {
        format!(
            "[[partition]]\nname = \"a{n}\"\nprocessors = {{ mode = \"shared\", desired = 1, units = {{ minimum = 0.05, desired = 0.05, maximum = 0.05 }}, sharing = \"uncapped\", weight = 0 }}\nmemory = {{ desired = \"2MiB\" }}\nboot = \"diagnostics\"\n"
        )
    };
    let many: String = (0..120).map(partition).collect();
    let head = HEAD.replace("cpus = 4", "cpus = 40");
    let reading = read(&format!("{head}{many}"));
    assert!(reading.frame.is_some(), "{}", render(&reading.diagnostics, &reading.sources));
    let last = reading.diagnostics.last().unwrap();
    assert_eq!((last.rule, last.severity, reading.diagnostics.len()), ("too-many", Severity::Warning, 101));
    assert!(last.message.contains("20 or more"), "{}", last.message);
    // A mistake behind them all is told.
    let reading = read(&format!("{head}{many}[[partition]]\nnme = \"z\"\n"));
    assert!(reading.frame.is_none() && broken(&reading).contains(&"unknown-key"));
    assert!(!reading.diagnostics.iter().any(|one| one.rule == "too-many" && one.severity == Severity::Error));
}

/// A library with one file under every name, which counts how often and how much is read of it.
#[derive(Default)]
struct Same {
    reads: usize,
    bytes: usize,
}

impl Library for Same {
    fn read(&mut self, _: &Path, most: usize) -> Result<Included, Unavailable> {
        let bytes = vec![b'\n'; LARGEST_FILE.min(most + 1)];
        (self.reads, self.bytes) = (self.reads + 1, self.bytes + bytes.len());
        Ok(Included { identity: "/same".into(), bytes })
    }
}

#[test]
fn a_file_that_is_included_without_end_is_not_read_without_end() {
    let text = format!("include = [{}]\n{HEAD}", "\"big.toml\",".repeat(100_000));
    let mut library = Same::default();
    let reading = read_bytes("frame.toml", Path::new("frame.toml"), text.as_bytes(), &mut library);
    assert!(reading.frame.is_none() && broken(&reading).contains(&"include-twice"));
    assert!(library.reads <= MOST_INCLUDED, "{} reads", library.reads);
    assert!(library.bytes <= LARGEST_SUM + MOST_INCLUDED, "{} bytes", library.bytes);
    // Files that are not there are not looked for without end either, and that is said once.
    let names: String = (0..100_000).map(|n| format!("\"m{n}.toml\",")).collect();
    let reading = Files::of(&[("frame.toml", &format!("include = [{names}]\n{HEAD}"))]).read();
    assert_eq!(reading.diagnostics.last().map(|one| one.message.contains("901 or more")), Some(true));
}
