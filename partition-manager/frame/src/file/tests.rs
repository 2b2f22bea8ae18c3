//! Every rule of the reader by a file with that one mistake, hostile text, and the files in `configs/`.

use super::check::{FileFact, FileFacts, Purpose, against, files};
use super::*;
use crate::assignment::Assignment;
use crate::declare::{Boot, IoProcessors, ProcessorMode, Sharing, Shutdown, WhenInactive};
use crate::diagnostic::{Diagnostic, Severity};
use crate::image::ImageError;
use crate::inventory::{Cpu, Inventory, Node};
use crate::plan::plan;
use crate::units::{GIB, KIB, MIB, Units};
use proptest::prelude::*;
use std::path::Path;
use std::time::{Duration, Instant};

const GOOD: &str = r#"[frame]
name = "rack7"
cpus = "0-15"
memory_block = "2MiB"
reserved = { cpus = 1, memory = "1GiB" }
minimum_units = 0.05
shared_host = false

[[pool]]
name = "default"
cpus = 2

[[partition]]
name = "db"
id = 7
availability_priority = 200
processors = { mode = "dedicated", minimum = 1, desired = 2, maximum = 4, io = "pool:default" }
memory = { minimum = "256MiB", desired = "1GiB", maximum = "2GiB", base = "256MiB", pages = "2MiB" }
boot = { kernel = "vmlinuz", initrd = "initrd.img", cmdline = "console=ttyS0" }
auto_start = false
when_inactive = "release"
[partition.shutdown]
ask = "1s"
button = "2min"
nmi = "500ms"

[[partition]]
name = "batch"
processors = { mode = "shared", pool = "default", desired = 2, units = { minimum = 0.1, desired = 0.4, maximum = 1.0 }, sharing = "uncapped", weight = 64 }
memory = { desired = "64MiB" }
boot = "diagnostics"
"#;

fn bytes(bytes: &[u8]) -> Reading {
    read_bytes("frame.toml", Path::new("frame.toml"), bytes, &mut Alone)
}

/// What is found when `from` in the good file becomes `to`.
fn mutated(from: &str, to: &str) -> Reading {
    assert!(GOOD.contains(from), "{from:?} is not in the good file");
    read(&GOOD.replacen(from, to, 1))
}

#[test]
fn the_good_file_is_read_as_it_is_meant() {
    let reading = read(GOOD);
    assert_eq!(reading.diagnostics, vec![]);
    let frame = reading.frame.unwrap();
    assert_eq!((frame.name.as_str(), frame.memory_block, frame.reserved_cpus), ("rack7", 2 * MIB, 1));
    assert_eq!((frame.reserved_memory, frame.minimum_units), (GIB, Units::from_thousandths(50)));
    assert_eq!(frame.cpus.unwrap().len(), 16);
    let [db, batch] = frame.partitions.as_slice() else { panic!("two partitions are declared") };
    assert_eq!(
        (db.id, db.availability_priority, db.auto_start, db.when_inactive),
        (7, 200, false, WhenInactive::Release)
    );
    let pool = crate::name::Name::new("default").unwrap();
    assert_eq!(db.processors.mode, ProcessorMode::Dedicated { io: IoProcessors::Pool(pool.clone()) });
    assert_eq!((db.memory.base, db.memory.pages, db.memory.size.maximum), (256 * MIB, Some(2 * MIB), 2 * GIB));
    assert_eq!(db.shutdown, Shutdown { ask_ms: 1000, button_ms: 120_000, nmi_ms: 500 });
    assert!(matches!(&db.boot, Boot::Kernel { cmdline, .. } if cmdline == "console=ttyS0"));
    assert_eq!((batch.id, batch.auto_start, batch.memory.base), (1, true, 64 * MIB));
    let ProcessorMode::Shared { pool: of, units, sharing } = &batch.processors.mode else { panic!("batch is shared") };
    assert_eq!((of, units.desired, *sharing), (&pool, Units::from(0.4), Sharing::Uncapped { weight: 64 }));
}

/// Each row: what is replaced, by what, the rule that must be found, and words that the message or a label
/// must have.
const MISTAKES: &[(&str, &str, &str, &str)] = &[
    (
        "availability_priority = 200",
        "availability_prioritie = 200",
        "unknown-key",
        "did you mean availability_priority?",
    ),
    ("shared_host = false", "colour = 1", "unknown-key", "\"colour\""),
    ("[[pool]]", "[[switch]]\nname = \"twelve-chars\"\n[[pool]]", "switch-name", "this one has 12"),
    ("auto_start = false", "device = []", "not-in-this-version", "no dedicated devices"),
    ("auto_start = false", "interrupt = []", "not-in-this-version", "wires no interrupts"),
    ("name = \"rack7\"", "", "missing-key", "name is missing"),
    ("name = \"db\"", "", "missing-key", "name is missing"),
    ("cpus = 2", "", "missing-key", "cpus is missing"),
    ("boot = \"diagnostics\"", "", "missing-key", "boot is missing"),
    ("memory = { desired = \"64MiB\" }", "", "missing-key", "memory is missing"),
    ("memory = { desired = \"64MiB\" }", "memory = { minimum = \"64MiB\" }", "missing-key", "desired is missing"),
    ("mode = \"shared\", ", "", "missing-key", "mode is missing"),
    ("units = { minimum = 0.1, desired = 0.4, maximum = 1.0 }, ", "", "missing-key", "units is missing"),
    ("id = 7", "id = \"7\"", "wrong-type", "a whole number from 1 to 65535"),
    ("name = \"rack7\"", "name = 7", "wrong-type", "this is an integer"),
    ("shared_host = false", "shared_host = \"no\"", "wrong-type", "true or false"),
    ("memory = { desired = \"64MiB\" }", "memory = \"64MiB\"", "wrong-type", "a table"),
    ("minimum_units = 0.05", "minimum_units = \"0.05\"", "wrong-type", "processing units"),
    ("[[pool]]", "[pool]", "single-table", "write [[pool]]"),
    ("boot = \"diagnostics\"", "boot = 1", "wrong-type", "boot is \"diagnostics\" or a table"),
    ("name = \"db\"", "name = \"Db\"", "bad-name", "'D' cannot stand there"),
    ("name = \"default\"", "name = \"Default\"", "bad-name", "'D' cannot stand there"),
    ("name = \"rack7\"", "name = \"\"", "bad-name", "cannot be empty"),
    ("pool = \"default\"", "pool = \"a/b\"", "bad-name", "'/' cannot stand there"),
    ("io = \"pool:default\"", "io = \"pool:\"", "bad-name", "cannot be empty"),
    ("name = \"batch\"", "name = \"db\"", "duplicate-name", "partition name db is declared twice"),
    ("name = \"batch\"", "name = \"batch\"\nid = 7", "duplicate-id", "partition id 7 is declared twice"),
    (
        "[[pool]]",
        "[[pool]]\nname = \"default\"\ncpus = 1\n[[pool]]",
        "duplicate-pool",
        "pool name default is declared twice",
    ),
    ("id = 7", "id = 7\nid = 8", "duplicate-key", "given twice"),
    ("minimum = 1, desired = 2", "minimum = 3, desired = 2", "range-order", "minimum 3 is more than desired 2"),
    ("desired = 2, maximum = 4", "desired = 2, maximum = 1", "range-order", "desired 2 is more than maximum 1"),
    ("maximum = \"2GiB\"", "maximum = \"512MiB\"", "range-order", "desired 1GiB is more than maximum 512MiB"),
    (
        "desired = 0.4, maximum = 1.0",
        "desired = 0.4, maximum = 0.3",
        "range-order",
        "desired 0.40 is more than maximum 0.30",
    ),
    ("desired = \"64MiB\"", "desired = \"65MiB\"", "not-a-multiple", "64MiB or 66MiB is"),
    ("desired = \"64MiB\"", "desired = \"1KiB\"", "not-a-multiple", "2MiB is"),
    (
        "{ minimum = \"256MiB\", desired = \"1GiB\", maximum = \"2GiB\", base = \"256MiB\", pages = \"2MiB\" }",
        "{ desired = \"1GiB\", base = \"512MiB\", pages = \"1GiB\" }",
        "not-a-multiple",
        "not a multiple of 1GiB",
    ),
    ("desired = \"64MiB\"", "desired = \"0B\"", "zero-size", "at least one memory block"),
    ("desired = \"64MiB\"", "desired = \"16EiB\"", "bad-size", "more than 16 EiB less one byte"),
    ("desired = \"64MiB\"", "desired = \"15EiB\"", "size-too-large", "at most 64TiB"),
    ("desired = \"64MiB\"", "desired = \"64MB\"", "bad-size", "is not a size"),
    ("base = \"256MiB\"", "base = \"2GiB\"", "base-above-desired", "base memory of 2GiB"),
    ("pages = \"2MiB\"", "pages = \"3MiB\"", "bad-choice", "\"any\""),
    ("memory_block = \"2MiB\"", "memory_block = \"3MiB\"", "memory-block", "memory_block cannot be 3MiB"),
    ("memory_block = \"2MiB\"", "memory_block = \"2GiB\"", "memory-block", "from 4KiB to 1GiB"),
    (
        "units = { minimum = 0.1, desired = 0.4",
        "units = { desired = 0.09",
        "units-too-few",
        "desired units 0.09 are too few for 2",
    ),
    ("units = { minimum = 0.1", "units = { minimum = 0.09", "units-too-few", "minimum units 0.09"),
    ("desired = 0.4, maximum = 1.0", "desired = 0.4, maximum = 2.5", "units-too-many", "at most 2.00"),
    ("desired = 0.4, maximum = 1.0", "desired = 2.4", "units-too-many", "desired units 2.40"),
    ("desired = 0.4, maximum = 1.0", "desired = 0.4001, maximum = 1.0", "units-step", "steps of 0.001"),
    ("units = { minimum = 0.1", "units = { minimum = -0.1", "units-range", "0.001 is the least"),
    ("units = { minimum = 0.1", "units = { minimum = nan", "units-range", "0.001 is the least"),
    ("minimum_units = 0.05", "minimum_units = 1.5", "units-range", "from 0.001 to 1"),
    ("pool = \"default\"", "pool = \"defualt\"", "pool-missing", "did you mean default?"),
    ("io = \"pool:default\"", "io = \"pool:fast\"", "pool-missing", "uses pool fast"),
    ("io = \"pool:default\"", "io = \"everywhere\"", "bad-io", "io cannot be \"everywhere\""),
    ("sharing = \"uncapped\"", "sharing = \"capped\"", "weight-with-capped", "has no weight"),
    ("weight = 64", "weight = 256", "out-of-range", "from 0 to 255"),
    ("availability_priority = 200", "availability_priority = -1", "out-of-range", "from 0 to 255"),
    ("id = 7", "id = 0", "out-of-range", "from 1 to 65535"),
    ("id = 7", "id = 99999999999999999999999999999999999999999", "out-of-range", "from 1 to 65535"),
    ("desired = 2, maximum = 4", "desired = 2, maximum = 65", "out-of-range", "from 1 to 64"),
    ("mode = \"dedicated\"", "mode = \"dedicatd\"", "bad-choice", "did you mean \"dedicated\"?"),
    ("io = \"pool:default\"", "units = { desired = 1 }", "key-of-other-mode", "it is for mode = \"shared\""),
    ("pool = \"default\", desired", "io = \"own\", desired", "key-of-other-mode", "it is for mode = \"dedicated\""),
    ("when_inactive = \"release\"", "when_inactive = \"keep\"", "bad-choice", "\"hold\" or \"release\""),
    ("cpus = \"0-15\"", "cpus = \"15-0\"", "bad-cpus", "runs backwards"),
    ("cpus = \"0-15\"", "cpus = \"\"", "no-cpus", "no CPU"),
    ("cpus = \"0-15\"", "cpus = \"0-2\"", "cpus-exceeded", "the frame has 3 CPU(s), but 4 are claimed"),
    ("units = { minimum = 0.1, desired = 0.4, maximum = 1.0 }", "units = { desired = 2.0 }", "", ""),
    ("cpus = 2", "cpus = 0", "out-of-range", "from 1 to"),
    ("button = \"2min\"", "button = \"2m\"", "bad-duration", "is not a duration"),
    ("button = \"2min\"", "button = \"48h\"", "bad-duration", "more than 24h"),
    ("button = \"2min\"", "buttons = \"2min\"", "unknown-key", "did you mean button?"),
    ("kernel = \"vmlinuz\", ", "", "boot-form", "neither a kernel nor a payload"),
    ("kernel = \"vmlinuz\", ", "payload = \"diagnostics\", ", "payload-with-initrd", "takes no initrd"),
    (
        "kernel = \"vmlinuz\", ",
        "kernel = \"a\", payload = \"diagnostics\", ",
        "boot-form",
        "both a kernel and a payload",
    ),
    ("kernel = \"vmlinuz\"", "kernel = \"\"", "bad-path", "this is empty"),
    ("console=ttyS0", "a\\u0007", "bad-cmdline", "control character"),
    ("boot = \"diagnostics\"", "boot = \"diagnostic\"", "bad-choice", "did you mean \"diagnostics\"?"),
    ("auto_start = false", "auto_start false", "syntax", "neither a [header] nor key = value"),
    ("name = \"db\"", "name = db", "syntax", "not TOML"),
];

#[test]
fn every_mistake_is_found_alone_and_at_its_place() {
    for &(from, to, rule, words) in MISTAKES {
        let reading = mutated(from, to);
        let rules: Vec<&str> = reading.diagnostics.iter().map(|d| d.rule).collect();
        if rule.is_empty() {
            assert!(rules.is_empty(), "{to:?} is legal, but: {rules:?}");
            continue;
        }
        assert_eq!(rules, [rule], "{to:?}\n{}", render(&reading.diagnostics, &reading.sources));
        assert!(reading.frame.is_none(), "{to:?} gives a frame");
        let rendered = render(&reading.diagnostics, &reading.sources);
        assert!(rendered.contains(words), "{words:?} is not in:\n{rendered}");
        let (file, line, _) = reading.sources.position(reading.diagnostics[0].start().unwrap());
        assert!(rendered.contains(&format!("{file}:{line}:")), "line {line}:\n{rendered}");
    }
}

#[test]
fn all_mistakes_of_a_file_are_found_at_once() {
    let text = GOOD
        .replace("id = 7", "id 7")
        .replace("desired = \"64MiB\"", "desired = \"63MiB\"")
        .replace("pool = \"default\"", "pool = \"other\"")
        .replace("shared_host", "shared_hots");
    let reading = read(&text);
    let rules: Vec<&str> = reading.diagnostics.iter().map(|d| d.rule).collect();
    assert_eq!(rules, ["unknown-key", "syntax", "pool-missing", "not-a-multiple"]);
}

#[test]
fn sums_over_a_pool_name_everyone() {
    let text = GOOD.replace("cpus = 2", "cpus = 1") + &GOOD[GOOD.find("[[partition]]\nname = \"batch\"").unwrap()..];
    let text = text.replace("minimum = 0.1, desired = 0.4", "minimum = 0.6, desired = 0.6");
    let text = text.replacen("name = \"batch\"", "name = \"first\"", 1);
    let reading = read(&text);
    let rendered = render(&reading.diagnostics, &reading.sources);
    assert_eq!(reading.diagnostics.len(), 1, "{rendered}");
    assert_eq!(reading.diagnostics[0].rule, "units-exceeded");
    for words in ["need 1.20", "partition first is entitled to 0.60", "partition batch is entitled to 0.60"] {
        assert!(rendered.contains(words), "{words:?} is not in:\n{rendered}");
    }
}

#[test]
fn a_diagnostic_looks_as_those_of_the_compiler() {
    let reading = mutated("minimum = 1, desired = 2", "minimum = 3, desired = 2");
    let expected = r#"error[range-order]: processors: minimum 3 is more than desired 2
  --> frame.toml:17:46
   |
17 | processors = { mode = "dedicated", minimum = 3, desired = 2, maximum = 4, io = "pool:default" }
   |                                              ^            - than desired
   |                                              |
   |                                              minimum is more
   |
   = help: minimum <= desired <= maximum
"#;
    let rendered = render(&reading.diagnostics, &reading.sources);
    assert_eq!(rendered.trim_end(), expected.trim_end());
    let coloured = render_styled(&reading.diagnostics, &reading.sources, Style::Coloured);
    assert!(coloured.contains("\x1b[") && !rendered.contains('\x1b'));
}

#[test]
fn json_tells_lines_and_columns() {
    let reading = mutated("name = \"batch\"", "name = \"db\"");
    let json = json(&reading.diagnostics, &reading.sources);
    let one = &json[0];
    assert_eq!((one["rule"].as_str(), one["severity"].as_str()), (Some("duplicate-name"), Some("error")));
    assert_eq!((one["line"].as_u64(), one["column"].as_u64()), (Some(28), Some(8)));
    assert_eq!((one["file"].as_str(), one["claimants"][1]["line"].as_u64()), (Some("frame.toml"), Some(14)));
    assert_eq!(one["claimants"][0]["end_column"].as_u64(), Some(12));
}

#[test]
fn numbers_are_given_by_name_and_not_by_place() {
    let text = |order: [&str; 3]| {
        let one = |name: &str| {
            let id = if name == "m" { "id = 1\n" } else { "" };
            format!(
                "[[partition]]\nname = \"{name}\"\n{id}processors = {{ mode = \"dedicated\", desired = 1 }}\nmemory = {{ desired = \"2MiB\" }}\nboot = \"diagnostics\"\n"
            )
        };
        format!("[frame]\nname = \"f\"\n{}", order.map(one).concat())
    };
    for order in [["a", "m", "z"], ["z", "m", "a"]] {
        let frame = read(&text(order)).frame.unwrap();
        let id = |name: &str| frame.partitions.iter().find(|p| p.name.as_str() == name).map(|p| p.id);
        assert_eq!((id("m"), id("a"), id("z")), (Some(1), Some(2), Some(3)));
    }
}

#[test]
fn files_that_are_not_there_are_pointed_at() {
    let reading = read(GOOD);
    let frame = reading.frame.unwrap();
    let named = files(&frame);
    assert_eq!(named, [("initrd.img".into(), Purpose::Initrd), ("vmlinuz".into(), Purpose::Kernel)]);
    assert_eq!(against(&frame, &reading.spans, &FileFacts::new()), vec![]);
    let judge = |initrd: FileFact, kernel: FileFact| {
        let facts = FileFacts::from([(named[0].clone(), initrd), (named[1].clone(), kernel)]);
        let found = against(&frame, &reading.spans, &facts);
        let text = render(&found, &reading.sources);
        (found.iter().map(|d| d.rule).collect::<Vec<_>>(), text)
    };
    let good = FileFact::Good { length: 4096 };
    assert_eq!(judge(good.clone(), good.clone()).0, Vec::<&str>::new());
    let (rules, text) = judge(FileFact::NoFile("a directory".into()), FileFact::Missing);
    assert_eq!(rules, ["file-missing", "file-kind"]);
    assert!(
        text.contains("frame.toml:19:10") && text.contains("kernel of partition db, \"vmlinuz\", is not there"),
        "{text}"
    );
    let short = ImageError::Short { kind: "ELF", needs: 10, has: 5 };
    let (rules, text) = judge(FileFact::Unreadable("Permission denied".into()), FileFact::BadImage(short));
    assert_eq!(rules, ["bad-image", "file-unreadable"]);
    assert!(text.contains("ELF cut short: needs 10 bytes, file has 5"), "{text}");
    assert_eq!(judge(FileFact::Good { length: GIB }, good).0, ["image-too-large"]);
}

#[test]
fn modules_are_refused_where_the_kernel_takes_none() {
    let reading =
        read(&GOOD.replacen("kernel = \"vmlinuz\"", "kernel = \"vmlinuz\", modules = [{ path = \"one\" }]", 1));
    let frame = reading.frame.unwrap();
    let found = |takes_modules| {
        let fact = FileFact::Kernel { length: 4096, takes_modules };
        let facts = FileFacts::from([(("vmlinuz".into(), Purpose::Kernel), fact)]);
        let found = against(&frame, &reading.spans, &facts);
        found.iter().map(|d| (d.rule, d.message.clone())).collect::<Vec<_>>()
    };
    assert_eq!(found(true), []);
    let refused = found(false);
    assert!(refused.len() == 1 && refused[0].0 == "bad-image", "{refused:?}");
    assert!(refused[0].1.contains("it cannot be given modules"), "{refused:?}");
}

/// A host of one core for each CPU.
fn host(cpus: u32, memory: u64) -> Inventory {
    let cpus = (0..cpus).map(|id| Cpu { id, package: 0, core: id, node: 0 }).collect();
    let node = Node { id: 0, memory, available: memory * 3 / 4, huge_pages: vec![], distances: vec![] };
    Inventory { cpus, nodes: vec![node], ..Inventory::default() }
}

#[test]
fn findings_of_a_plan_point_into_the_file() {
    let reading = read(GOOD);
    let refusals = plan(&reading.frame.unwrap(), &host(16, GIB), &Assignment::new()).unwrap_err();
    let found = findings(&refusals, &reading.spans, Severity::Error);
    let text = render(&found, &reading.sources);
    assert!(found.iter().any(|d| d.rule == "pages-missing"), "{text}");
    for words in ["frame.toml:18:12", "partition db needs 256MiB at least", "the host reserves 1GiB"] {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
}

fn config(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_demo_is_clean_and_fits_one_cpu() {
    let reading = read(&config("demo.toml"));
    assert_eq!(reading.diagnostics, vec![]);
    let frame = reading.frame.unwrap();
    assert_eq!(files(&frame), vec![]);
    for cpus in [1, 2] {
        let plan = plan(&frame, &host(cpus, GIB), &Assignment::new()).unwrap();
        assert_eq!((plan.partitions.len(), plan.withheld.len()), (2, 0));
        let rules: Vec<&str> = plan.warnings.iter().map(|w| w.rule.as_ref()).collect();
        assert_eq!(rules, ["host-shares"], "{:?}", plan.warnings);
    }
}

#[test]
fn the_linux_example_is_clean_but_for_its_files() {
    let reading = read(&config("linux.toml"));
    assert_eq!(reading.diagnostics, vec![]);
    let frame = reading.frame.unwrap();
    let facts: FileFacts = files(&frame).into_iter().map(|file| (file, FileFact::Missing)).collect();
    assert_eq!(facts.len(), 2);
    assert_eq!(against(&frame, &reading.spans, &facts).len(), 4);
    let plan = plan(&frame, &host(2, 4 * GIB), &Assignment::new()).unwrap();
    assert!(plan.partitions.iter().any(|p| p.processors.len() == 2));
}

/// Reads and renders a hostile text, which must take less than a second, and must be refused.
fn hostile(what: &str, text: &str) -> Vec<Diagnostic> {
    let start = Instant::now();
    let reading = read(text);
    let rendered = render(&reading.diagnostics, &reading.sources);
    let _ = json(&reading.diagnostics, &reading.sources);
    // Room for a slow or busy machine; in an optimised build it is well under a second.
    assert!(start.elapsed() < Duration::from_secs(5), "{what} took {:?}", start.elapsed());
    assert!(reading.frame.is_none() && !reading.diagnostics.is_empty(), "{what} is taken");
    assert!(reading.diagnostics.len() <= MOST_DIAGNOSTICS + 1, "{what}");
    assert!(rendered.len() as u64 <= 512 * KIB, "{what} says {} bytes", rendered.len());
    assert!(!rendered.chars().any(|c| (c.is_control() && c != '\n') || crate::diagnostic::misleads(c)), "{what}");
    reading.diagnostics
}

#[test]
fn hostile_text_is_refused_clearly_and_soon() {
    let rules = |text: &str| hostile("text", text).iter().map(|d| d.rule).collect::<Vec<_>>();
    assert_eq!(rules(&" ".repeat(LARGEST_FILE + 1)), ["file-too-large"]);
    let fill = |piece: &str| piece.repeat(LARGEST_FILE / piece.len());
    for piece in [
        "[",
        "{",
        "a={",
        "a.",
        "[a]\n",
        "[[partition]]\n",
        "]\n",
        "a='",
        "x",
        "a\n",
        "a=1\n",
        "\"",
        "\u{202e}",
        "\u{0}",
        "\r",
        "é=",
        "[[pool]]\nname=1\n",
        "#\u{7}\n",
    ] {
        hostile(piece, &fill(piece));
    }
    hostile("nested arrays", &format!("a={}", "[".repeat(500_000)));
    hostile("many keys", &(0..90_000).map(|n| format!("k{n} = 1\n")).collect::<String>());
    hostile("many lines without a value", &(0..90_000).map(|n| format!("k{n}\n")).collect::<String>());
    hostile("a long line", &format!("[frame]\nname = \"{}\"\n", "x".repeat(900_000)));
    hostile(
        "wide ranges",
        &format!("[frame]\nname = \"f\"\ncpus = \"{}\"\nx=1", fill("0-65535,").get(..900_000).unwrap_or("")),
    );
    hostile("bidi in a key", "[frame]\nname = \"f\"\n\"a\u{202e}b\" = 1\n");
    hostile("bidi in a comment", "[frame]\n# \u{202e}\nnmae = \"f\"\n");
    hostile("escape in a value", "[frame]\nname = \"\\u001b[31m\"\n");
    assert_eq!(bytes(b"[frame]\nname = \"\xff\"").diagnostics[0].rule, "not-utf8");
    assert!(bytes(b"[frame]\nname = \"\xff\"").diagnostics[0].message.contains("line 2"));
    assert!(bytes(GOOD.as_bytes()).frame.is_some());
    assert_eq!(rules(""), ["missing-key"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_read_without_a_panic(text in "(\\PC|[\n\t\r\u{0}\u{202e}])*") {
        let reading = read(&text);
        let _ = render_styled(&reading.diagnostics, &reading.sources, Style::Coloured);
        let _ = json(&reading.diagnostics, &reading.sources);
        prop_assert!(reading.frame.is_some() != any_error(&reading.diagnostics));
    }

    #[test]
    fn a_damaged_file_is_read_without_a_panic(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), "[\\]\\[{}=\"'.#a0\n é\u{202e}-]{0,3}"), 1..6)
    ) {
        let mut text: Vec<char> = GOOD.chars().collect();
        for (at, length, new) in damage {
            let at = at.index(text.len());
            let end = at + length.index(4).min(text.len() - at);
            text.splice(at..end, new.chars());
        }
        let text: String = text.into_iter().collect();
        let reading = read(&text);
        let rendered = render(&reading.diagnostics, &reading.sources);
        prop_assert!(reading.frame.is_some() != any_error(&reading.diagnostics), "{}", rendered);
        prop_assert!(!rendered.contains('\u{202e}'), "it misleads");
        // What the reader accepts, the plan does not find to contradict itself.
        if let Some(frame) = &reading.frame
            && let Err(refusals) = plan(frame, &host(64, 64 * GIB), &Assignment::new())
        {
            for refusal in refusals {
                let about_host = ["cpus-missing", "pages-missing", "cpus-exceeded", "memory-exceeded", "reserve-exceeded"];
                prop_assert!(about_host.contains(&refusal.rule.as_ref()), "{}", refusal);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = tests::bytes(&bytes);
    }
}
