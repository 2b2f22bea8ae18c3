//! One file for each rule, with exactly the mistake that the rule is about.

use crate::support::{Files, broken, others, place};
use frame::declare::Frame;
use frame::file::check::{FileFact, FileFacts, against, files, sockets};
use frame::file::{LARGEST_FILE, Reading, Unavailable, render};
use frame::image::ImageError;
use frame::root::Root;
use frame::rule::{TABLE, find};
use std::collections::BTreeSet;
use std::path::Path;

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

const TENANT: &str = "[[partition]]\nname = \"t\"\nprocessors = { mode = \"dedicated\", desired = 1 }\nmemory = { desired = \"2MiB\" }\nboot = \"diagnostics\"\n";

/// A rule, what of the good file is replaced by what, and words of what is said. `➊` marks the place to mend,
/// `➋` the other claimant.
type Edited = (&'static str, &'static [(&'static str, &'static str)], &'static str);

const EDITED: &[Edited] = &[
    ("syntax", &[("auto_start = false", "➊auto_start false")], "neither a [header] nor key = value"),
    ("duplicate-key", &[("id = 7", "id = 7\n➊id = 8")], "given twice"),
    ("unknown-key", &[("availability_priority", "➊availability_prioritie")], "availability_prioritie"),
    ("missing-key", &[("[[pool]]", "➊[[pool]]"), ("cpus = 2", "")], "has no cpus"),
    ("wrong-type", &[("id = 7", "id = ➊\"7\"")], "a whole number from 1 to 65535"),
    ("single-table", &[("[[pool]]", "➊[pool]")], "declared as a single table"),
    ("not-in-this-version", &[("auto_start = false", "➊device = []")], "no dedicated devices"),
    (
        "duplicate-device",
        &[(
            "[partition.shutdown]",
            "[[partition.disk]]\nname = ➋\"a\"\npath = \"a\"\n[[partition.disk]]\nname = ➊\"a\"\npath = \"b\"\n[partition.shutdown]",
        )],
        "device name a is declared twice",
    ),
    (
        "duplicate-slot",
        &[(
            "[partition.shutdown]",
            "[[partition.disk]]\nname = \"a\"\npath = \"a\"\nslot = ➋9\n[[partition.disk]]\nname = \"b\"\npath = \"b\"\nslot = ➊9\n[partition.shutdown]",
        )],
        "slot 9 is declared twice",
    ),
    (
        "bad-serial",
        &[(
            "[partition.shutdown]",
            "[[partition.disk]]\nname = \"a\"\npath = \"a\"\nserial = ➊\"a b\"\n[partition.shutdown]",
        )],
        "cannot have the serial number",
    ),
    (
        "zero-limit",
        &[(
            "[partition.shutdown]",
            "[[partition.disk]]\nname = \"a\"\npath = \"a\"\nlimit = { bandwidth = ➊\"0B\" }\n[partition.shutdown]",
        )],
        "bandwidth of limit",
    ),
    (
        "bad-mac",
        &[
            ("[[pool]]", "[[switch]]\nname = \"lan\"\n[[pool]]"),
            (
                "[partition.shutdown]",
                "[[partition.network]]\nname = \"lan0\"\nswitch = \"lan\"\nvlan = 10\nmac = ➊\"01:00:5e:00:00:01\"\n[partition.shutdown]",
            ),
        ],
        "a group address",
    ),
    (
        "bad-mac",
        &[
            ("[[pool]]", "[[switch]]\nname = \"lan\"\n[[pool]]"),
            (
                "[partition.shutdown]",
                "[[partition.network]]\nname = \"lan0\"\nswitch = \"lan\"\nvlan = 10\nmac = ➊\"2:0:0:0:0:1\"\n[partition.shutdown]",
            ),
        ],
        "the form 02:00:00:00:00:01",
    ),
    (
        "duplicate-vlan",
        &[
            ("[[pool]]", "[[switch]]\nname = \"lan\"\n[[pool]]"),
            (
                "[partition.shutdown]",
                "[[partition.network]]\nname = \"lan0\"\nswitch = \"lan\"\nvlan = ➋10\ntagged = [20, ➊10]\n[partition.shutdown]",
            ),
        ],
        "VLAN 10 is declared twice",
    ),
    (
        "out-of-range",
        &[
            ("[[pool]]", "[[switch]]\nname = \"lan\"\n[[pool]]"),
            (
                "[partition.shutdown]",
                "[[partition.network]]\nname = \"lan0\"\nswitch = \"lan\"\nvlan = ➊0\n\n[partition.shutdown]",
            ),
        ],
        "vlan of network lan0 is out of range",
    ),
    (
        "out-of-range",
        &[
            ("[[pool]]", "[[switch]]\nname = \"lan\"\n[[pool]]"),
            (
                "[partition.shutdown]",
                "[[partition.network]]\nname = \"lan0\"\nswitch = \"lan\"\nvlan = ➊4095\n\n[partition.shutdown]",
            ),
        ],
        "vlan of network lan0 is out of range",
    ),
    (
        "out-of-range",
        &[
            ("[[pool]]", "[[switch]]\nname = \"lan\"\n[[pool]]"),
            (
                "[partition.shutdown]",
                "[[partition.network]]\nname = \"lan0\"\nswitch = \"lan\"\nvlan = 10\ntagged = [20, ➊4095]\n[partition.shutdown]",
            ),
        ],
        "tagged of network lan0 is out of range",
    ),
    (
        "too-many-taps",
        &[
            ("[[pool]]", "[[switch]]\nname = \"lan\"\n[[pool]]"),
            (
                "[partition.shutdown]",
                "[[partition.network]]\nname = \"lan0\"\nswitch = \"lan\"\nvlan = 10\nqueues = ➊16\ntagged = [1, 2, 3, 4]\n[partition.shutdown]",
            ),
        ],
        "16 queue pairs over 5 VLANs",
    ),
    ("switch-name", &[("[[pool]]", "[[switch]]\nname = ➊\"twelve-chars\"\n[[pool]]")], "this one has 12"),
    (
        "bad-uplink",
        &[("[[pool]]", "[[switch]]\nname = \"lan\"\nuplink = ➊\"eth 0\"\n[[pool]]")],
        "cannot be a network interface",
    ),
    (
        "duplicate-switch",
        &[("[[pool]]", "[[switch]]\nname = ➋\"lan\"\n[[switch]]\nname = ➊\"lan\"\n[[pool]]")],
        "switch name lan is declared twice",
    ),
    (
        "duplicate-uplink",
        &[(
            "[[pool]]",
            "[[switch]]\nname = \"lan\"\nuplink = ➋\"eth1\"\n[[switch]]\nname = \"wan\"\nuplink = ➊\"eth1\"\n[[pool]]",
        )],
        "uplink eth1 is declared twice",
    ),
    (
        "switch-missing",
        &[
            ("[[pool]]", "[[switch]]\nname = \"lan\"\n[[pool]]"),
            (
                "[partition.shutdown]",
                "[[partition.network]]\nname = \"lan0\"\nswitch = ➊\"wan\"\nvlan = 10\n\n[partition.shutdown]",
            ),
        ],
        "is on switch wan, which is not declared",
    ),
    (
        "duplicate-mac",
        &[
            ("[[pool]]", "[[switch]]\nname = \"lan\"\n[[pool]]"),
            (
                "[partition.shutdown]",
                "[[partition.network]]\nname = \"lan0\"\nswitch = \"lan\"\nvlan = 10\nmac = ➋\"02:00:00:00:00:01\"\n[[partition.network]]\nname = \"lan1\"\nswitch = \"lan\"\nvlan = 10\nmac = ➊\"02:00:00:00:00:01\"\n[partition.shutdown]",
            ),
        ],
        "both have the address 02:00:00:00:00:01",
    ),
    (
        "duplicate-device",
        &[
            ("[[pool]]", "[[switch]]\nname = \"lan\"\n[[pool]]"),
            (
                "[partition.shutdown]",
                "[[partition.disk]]\nname = ➋\"a\"\npath = \"a\"\n[[partition.network]]\nname = ➊\"a\"\nswitch = \"lan\"\nvlan = 10\n\n[partition.shutdown]",
            ),
        ],
        "device name a is declared twice",
    ),
    (
        "pit-without-8259",
        &[("auto_start = false", "pit = ➊true\ninterrupts = ➋\"emulated\"")],
        "only with interrupts = \"kernel\"",
    ),
    ("key-of-other-mode", &[("io = \"pool:default\"", "➊weight = 1")], "it is for mode = \"shared\""),
    ("bad-choice", &[("\"release\"", "➊\"keep\"")], "\"hold\" or \"release\""),
    ("out-of-range", &[("= 200", "= ➊256")], "availability_priority of partition db is out of range"),
    ("bad-name", &[("\"db\"", "➊\"Db\"")], "'D' cannot stand there"),
    (
        "name-too-long",
        &[("\"db\"", "➊\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"")],
        "this one has 64",
    ),
    ("bad-size", &[("\"64MiB\"", "➊\"64MB\"")], "is not a size"),
    ("zero-size", &[("\"64MiB\"", "➊\"0B\"")], "desired of memory cannot be 0B"),
    ("size-too-large", &[("\"64MiB\"", "➊\"128TiB\"")], "desired of memory cannot be 128TiB"),
    ("not-a-multiple", &[("\"64MiB\"", "➊\"65MiB\"")], "desired of memory cannot be 65MiB"),
    ("memory-block", &[("memory_block = \"2MiB\"", "memory_block = ➊\"3MiB\"")], "cannot be 3MiB"),
    ("bad-duration", &[("\"2min\"", "➊\"2m\"")], "is not a duration"),
    ("bad-cpus", &[("\"0-15\"", "➊\"15-0\"")], "runs backwards"),
    ("no-cpus", &[("\"0-15\"", "➊\"\"")], "the frame has no CPU"),
    ("units-step", &[("desired = 0.4", "desired = ➊0.4001")], "finer than processing units"),
    ("units-range", &[("minimum_units = 0.05", "minimum_units = ➊-1.0")], "minimum_units"),
    ("bad-path", &[("\"vmlinuz\"", "➊\"\"")], "kernel is no path"),
    ("bad-cmdline", &[("\"console=ttyS0\"", "➊\"a\\u0007\"")], "this cannot be a command line"),
    ("bad-io", &[("\"pool:default\"", "➊\"elsewhere\"")], "io cannot be \"elsewhere\""),
    ("range-order", &[("minimum = 1, desired = 2", "minimum = ➊3, desired = ➋2")], "minimum 3 is more than desired 2"),
    (
        "base-above-desired",
        &[("base = \"256MiB\"", "base = ➊\"2GiB\""), ("desired = \"1GiB\"", "➋desired = \"1GiB\"")],
        "base memory of 2GiB",
    ),
    ("units-too-few", &[("{ minimum = 0.1,", "{ ➊minimum = 0.09,")], "minimum units 0.09 are too few for 2"),
    ("units-too-many", &[("maximum = 1.0", "➊maximum = 2.5")], "maximum units 2.50 are more than 2"),
    ("weight-with-capped", &[("\"uncapped\", weight = 64", "➋\"capped\", weight = ➊64")], "has no weight"),
    ("weight-zero", &[("weight = 64", "weight = ➊0")], "gets nothing above its entitlement"),
    ("boot-form", &[("{ kernel = \"vmlinuz\", ", "➊{ ")], "neither a kernel nor a payload"),
    (
        "payload-with-initrd",
        &[("kernel = \"vmlinuz\", initrd = ", "payload = ➋\"diagnostics\", initrd = ➊")],
        "takes no initrd",
    ),
    (
        "payload-with-modules",
        &[(
            "kernel = \"vmlinuz\", initrd = \"initrd.img\"",
            "payload = ➋\"diagnostics\", modules = ➊[{ path = \"m\" }]",
        )],
        "takes no modules",
    ),
    (
        "initrd-is-kernel",
        &[("kernel = \"vmlinuz\", initrd = \"initrd.img\"", "kernel = ➋\"vmlinuz\", initrd = ➊\"vmlinuz\"")],
        "both the kernel and the initrd",
    ),
    (
        "nmi-ignored",
        &[
            (
                "boot = { kernel = \"vmlinuz\", initrd = \"initrd.img\", cmdline = \"console=ttyS0\" }",
                "boot = { payload = \"diagnostics\", ➋cmdline = \"run=ignore-nmi\" }",
            ),
            ("\"500ms\"", "➊\"500ms\""),
        ],
        "told to ignore it",
    ),
    (
        "button-ignored",
        &[
            (
                "boot = { kernel = \"vmlinuz\", initrd = \"initrd.img\", cmdline = \"console=ttyS0\" }",
                "boot = { payload = \"diagnostics\", ➋cmdline = \"run=ignore-button\" }",
            ),
            ("\"2min\"", "➊\"2min\""),
        ],
        "told to ignore it",
    ),
    (
        "ladder-empty",
        &[(
            "[partition.shutdown]\nask = \"1s\"\nbutton = \"2min\"\nnmi = \"500ms\"",
            "shutdown = ➊{ ask = \"0s\", button = \"0s\", nmi = \"0s\" }",
        )],
        "without being asked",
    ),
    ("duplicate-name", &[("name = \"db\"", "name = ➋\"db\""), ("\"batch\"", "➊\"db\"")], "db is declared twice"),
    (
        "duplicate-cid",
        &[
            ("[partition.shutdown]", "vsock = { cid = ➋3 }\n[partition.shutdown]"),
            ("name = \"batch\"", "name = \"batch\"\nid = 1\nvsock = ➊{}"),
        ],
        "both have the context identifier 3",
    ),
    (
        "duplicate-port",
        &[("[partition.shutdown]", "console = { ports = [➋\"agent\", ➊\"agent\"] }\n[partition.shutdown]")],
        "port name agent is declared twice",
    ),
    (
        "too-many-ports",
        &[(
            "[partition.shutdown]",
            "console = { ports = [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\", ➊\"h\"] }\n[partition.shutdown]",
        )],
        "has 8 ports",
    ),
    ("duplicate-id", &[("id = 7", "id = ➋7"), ("name = \"batch\"", "name = \"batch\"\nid = ➊7")], "id 7 is declared"),
    (
        "duplicate-pool",
        &[
            ("name = \"default\"", "name = ➋\"default\""),
            ("[[partition]]", "[[pool]]\nname = ➊\"default\"\ncpus = 1\n[[partition]]"),
        ],
        "pool name default is declared twice",
    ),
    ("pool-missing", &[("pool = \"default\"", "➊pool = \"defualt\"")], "uses pool defualt"),
    (
        "units-exceeded",
        &[
            ("cpus = 2", "➊cpus = 2"),
            ("{ minimum = 0.1, desired = 0.4, maximum = 1.0 }", "{ ➋minimum = 2.5, desired = 3 }"),
            ("pool = \"default\", desired = 2", "pool = \"default\", desired = 4"),
        ],
        "need 2.50",
    ),
    (
        "cpus-exceeded",
        &[("cpus = \"0-15\"", "➊cpus = \"0-2\""), ("cpus = 2", "➋cpus = 2")],
        "3 CPU(s), but 4 are claimed",
    ),
    ("defaults-key", &[("[[pool]]", "[defaults]\n➊id = 3\n[[pool]]")], "each partition has its own"),
    (
        "count-without-pattern",
        &[("name = \"batch\"", "name = ➊\"batch\"\ncount = ➋2")],
        "the name \"batch\" is one for all",
    ),
    ("pattern-without-count", &[("\"batch\"", "➊\"batch-{n}\"")], "the partition has no count"),
    ("placeholder-unknown", &[("\"batch\"", "➊\"batch-{n}-{m}\"\ncount = 2")], "\"{m}\" stands for nothing"),
    ("id-with-count", &[("\"batch\"", "\"b-{n}\"\ncount = ➋2\nid = ➊9")], "cannot have one id"),
    ("include-position", &[("[[pool]]", "➊include = [\"x.toml\"]\n[[pool]]")], "no key \"include\""),
    ("too-many-items", &[("\"batch\"", "\"b-{n}\"\ncount = ➊65535")], "more than 65535 partitions"),
];

/// What a case is made of, when editing the good file is not enough.
fn included(first: &str) -> String {
    format!("include = [{first}]\n{GOOD}")
}

fn cases() -> Vec<(&'static str, Files, &'static str)> {
    let mut cases = vec![];
    for (rule, edits, words) in EDITED {
        let mut text = GOOD.to_owned();
        for (from, to) in *edits {
            assert!(text.contains(from), "{rule}: {from:?} is not in the good file");
            text = text.replacen(from, to, 1);
        }
        cases.push((*rule, Files::of(&[("frame.toml", &text)]), *words));
    }
    let mut with = |rule, root: String, others: &[(&str, &str)], words| {
        let mut files = Files::of(&[("frame.toml", &root)]);
        for (path, text) in others {
            files.add(path, text);
        }
        cases.push((rule, files, words));
    };
    let long = GOOD.replace("\"console=ttyS0\"", &format!("➊\"{}\"", "x".repeat(2048)));
    with("cmdline-too-long", long, &[], "has 2048 bytes");
    let large = format!(
        "➊[[partition]]\nname = \"l-{{n}}\"\ncount = 65000\nprocessors = {{ mode = \"dedicated\", desired = 1 }}\nmemory = {{ desired = \"2MiB\" }}\nboot = {{ payload = \"diagnostics\", cmdline = \"{}\" }}\n",
        "x".repeat(2000)
    );
    let unbound = GOOD.replace("cpus = \"0-15\"\n", "");
    with("text-too-large", format!("{unbound}{large}"), &[], "of all partitions together");
    with("include-missing", included("➊\"none.toml\""), &[], "\"none.toml\" is not there");
    with("include-frame", included("\"a.toml\""), &[("a.toml", "➊[frame]\nname = \"x\"\n")], "has a [frame]");
    with(
        "include-circle",
        included("➋\"s/a.toml\""),
        &[("s/a.toml", "include = [\"b.toml\"]\n"), ("s/b.toml", "include = [➊\"a.toml\"]\n")],
        "",
    );
    // Paths go from directory to directory as they are written; what they lead to is the library's to know.
    with("include-twice", included("➋\"a.toml\", ➊\"a.toml\""), &[("a.toml", TENANT)], "is included twice");
    let deep: Vec<(String, String)> = (0..9)
        .map(|n| {
            let mark = if n == 7 { "➊" } else { "" };
            (format!("d{n}.toml"), format!("include = [{mark}\"d{}.toml\"]\n", n + 1))
        })
        .collect();
    let deep: Vec<(&str, &str)> = deep.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    with("include-depth", included("\"d0.toml\""), &deep, "at most 8 deep");
    let names: Vec<String> = (0..1001).map(|n| format!("{}\"f{n}.toml\"", if n == 1000 { "➊" } else { "" })).collect();
    let many: Vec<(String, &str)> = (0..1001).map(|n| (format!("f{n}.toml"), "")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    with("include-too-many", included(&names.join(",\n")), &many, "more than 1000 files");
    let full = "#".repeat(LARGEST_FILE);
    let wide = [("a.toml", full.as_str()), ("b.toml", &full), ("c.toml", &full), ("d.toml", &full)];
    with("include-sum", included("\"a.toml\", \"b.toml\", \"c.toml\", ➊\"d.toml\""), &wide, "together");

    let mut odd = |rule, what, words| {
        let mut files = Files::of(&[("frame.toml", &included("➊\"a.toml\""))]);
        files.put("a.toml", what);
        cases.push((rule, files, words));
    };
    odd("include-unreadable", Err(Unavailable::Unreadable("Permission denied".into())), "Permission denied");
    odd("include-kind", Err(Unavailable::NoFile("a pipe".into())), "is a pipe, not a file");
    odd("include-not-utf8", Ok(b"a = 1\n# \xff".to_vec()), "a byte in line 2");
    odd("include-too-large", Ok(vec![b'#'; LARGEST_FILE + 1]), "has more than 4194304 bytes");
    cases
}

/// Checks that `reading` says just this one thing, at the places that are marked.
fn judge(rule: &str, reading: &Reading, files: &Files, words: &str) -> Result<(), String> {
    let rendered = render(&reading.diagnostics, &reading.sources);
    let fail = |what: String| Err(format!("{rule}: {what}\n{rendered}"));
    if broken(reading) != [rule] {
        return fail(format!("found {:?}", broken(reading)));
    }
    let diagnostic = &reading.diagnostics[0];
    let entry = find(rule).ok_or_else(|| format!("{rule} is not in the table"))?;
    if diagnostic.severity != entry.severity
        || (reading.frame.is_some() != (diagnostic.severity != frame::diagnostic::Severity::Error))
    {
        return fail("it stops what it should not, or does not stop what it should".into());
    }
    let here = diagnostic.start().map(|at| place(reading, at));
    if here.is_none() || here != files.here {
        return fail(format!("points at {here:?}, not {:?}", files.here));
    }
    if let Some(there) = &files.there
        && !others(reading, diagnostic).contains(there)
    {
        return fail(format!("the other claimant at {there:?} is not named: {:?}", others(reading, diagnostic)));
    }
    if !rendered.contains(words) {
        return fail(format!("does not say {words:?}"));
    }
    match &diagnostic.help {
        Some(help) if !help.is_empty() => Ok(()),
        _ => fail("has no remedy".into()),
    }
}

#[test]
fn every_rule_is_found_alone_at_its_place_with_both_claimants() {
    let failures: Vec<String> = cases()
        .into_iter()
        .filter_map(|(rule, files, words)| judge(rule, &files.clone().read(), &files, words).err())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn the_good_file_breaks_no_rule() {
    assert_eq!(broken(&Files::of(&[("frame.toml", GOOD)]).read()), Vec::<&str>::new());
}

#[test]
fn bytes_that_are_no_frame_file_are_said_to_be_none() {
    let of = |bytes: Vec<u8>| {
        let mut files = Files::default();
        files.put("frame.toml", Ok(bytes));
        broken(&files.read())
    };
    assert_eq!(of(vec![b'#'; LARGEST_FILE + 1]), ["file-too-large"]);
    assert_eq!(of(b"\xff".to_vec()), ["not-utf8"]);
    let many = of("x = 1\ny\n".repeat(200).into_bytes());
    assert_eq!((many.len(), many.last()), (101, Some(&"too-many")));
}

fn good() -> (Frame, Reading) {
    let reading = Files::of(&[("frame.toml", GOOD)]).read();
    (reading.frame.clone().unwrap(), reading)
}

/// What is said when the kernel of the good file is so.
fn kernel(fact: FileFact) -> (&'static str, (String, usize, usize), bool) {
    let (frame, reading) = good();
    let facts: FileFacts = files(&frame)
        .into_iter()
        .filter(|(path, _)| path == Path::new("vmlinuz"))
        .map(|file| (file, fact.clone()))
        .collect();
    let found = against(&frame, &reading.spans, &facts);
    assert_eq!(found.len(), 1, "{found:?}");
    (found[0].rule, place(&reading, found[0].start().unwrap()), found[0].help.is_some())
}

#[test]
fn files_of_the_host_are_judged_where_they_are_named() {
    let here = ("frame.toml".to_owned(), 19, 10);
    let is = |rule| (rule, here.clone(), true);
    assert_eq!(kernel(FileFact::Missing), is("file-missing"));
    assert_eq!(kernel(FileFact::Unreadable("Permission denied".into())), is("file-unreadable"));
    assert_eq!(kernel(FileFact::NoFile("a directory".into())), is("file-kind"));
    assert_eq!(kernel(FileFact::BadImage(ImageError::Short { kind: "ELF", needs: 2, has: 1 })), is("bad-image"));
    assert_eq!(kernel(FileFact::Good { length: 1 << 40 }), is("image-too-large"));
}

/// A raw image of so many bytes.
fn image(length: u64) -> FileFact {
    FileFact::Disk { length, identity: (1, 2), function: None }
}

#[test]
fn disks_are_judged_where_they_are_named() {
    let one = "[[partition.disk]]\nname = \"root\"\npath = \"root.img\"\n";
    let text = format!(
        "{GOOD}{one}[[partition]]\nname = \"late\"\nprocessors = {{ mode = \"shared\", desired = 1, units = {{ desired = 0.1 }} }}\nmemory = {{ desired = \"2MiB\" }}\nboot = \"diagnostics\"\n{one}"
    );
    let judge = |text: &str, fact: FileFact| {
        let reading = Files::of(&[("frame.toml", text)]).read();
        let frame = reading.frame.as_ref().unwrap();
        let facts: FileFacts =
            files(frame).into_iter().filter(|(_, purpose)| purpose.is_disk()).map(|key| (key, fact.clone())).collect();
        assert!(!facts.is_empty());
        against(frame, &reading.spans, &facts)
            .into_iter()
            .map(|one| (one.rule, one.labels.len(), one.message))
            .collect::<Vec<_>>()
    };
    let rules =
        |fact: FileFact| judge(&text, fact).into_iter().map(|(rule, labels, _)| (rule, labels)).collect::<Vec<_>>();
    let both = |rule| vec![(rule, 1), (rule, 1)];
    assert_eq!(rules(FileFact::Missing), both("file-missing"));
    assert_eq!(rules(FileFact::Unreadable("Permission denied".into())), both("file-unreadable"));
    assert_eq!(rules(FileFact::NoFile("a directory".into())), both("file-kind"));
    assert_eq!(rules(FileFact::Unwritable("Read-only file system".into())), both("disk-unwritable"));
    assert_eq!(rules(FileFact::Format("qcow2")), both("disk-format"));
    assert_eq!(rules(image(511)), both("disk-too-short"));
    let shared = judge(&text, image(512));
    assert_eq!(shared.iter().map(|(rule, labels, _)| (*rule, *labels)).collect::<Vec<_>>(), [("disk-shared", 2)]);
    assert!(
        shared[0].2.contains("disk root of partition batch") && shared[0].2.contains("disk root of partition late")
    );
    let readers = text.replace("path = \"root.img\"\n", "path = \"root.img\"\nread_only = true\n");
    assert_eq!(judge(&readers, image(512)), []);

    // Of a device that is dedicated there is one partition.
    let own = readers.replacen("read_only = true\n", "read_only = true\ndedicated = true\n", 1);
    let alone: Vec<_> = judge(&own, image(512)).into_iter().map(|(rule, labels, _)| (rule, labels)).collect();
    assert_eq!(alone, [("dedicated-file", 1)]);
    let device = FileFact::Disk { length: 512, identity: (u64::MAX, 2), function: Some("0000:00:05.0".into()) };
    let [(rule, labels, message)] = judge(&own, device.clone()).try_into().unwrap();
    assert_eq!((rule, labels), ("dedicated-shared", 2));
    assert!(message.contains("batch") && message.contains("late") && message.contains("0000:00:05.0"), "{message}");
    assert_eq!(judge(&readers, device), []);
}

#[test]
fn sockets_too_deep_are_judged_by_their_names() {
    let (frame, reading) = good();
    let found =
        |depth: usize| sockets(&frame, &reading.spans, &Root::under(Path::new(&format!("/{}", "d".repeat(depth)))));
    assert_eq!(found(20), vec![]);
    let deep = found(97);
    assert_eq!((deep.len(), deep[0].rule), (1, "socket-path"));
    assert_eq!(place(&reading, deep[0].start().unwrap()), ("frame.toml".into(), 2, 1));
}

/// Rules that are found elsewhere than in these tests: by the plan, and by the command that asks the host.
const ELSEWHERE: [&str; 2] = ["plan", "no-inventory"];

#[test]
fn every_rule_of_the_table_has_its_test() {
    let judged_otherwise = [
        "file-too-large",
        "not-utf8",
        "too-many",
        "file-missing",
        "file-unreadable",
        "file-kind",
        "bad-image",
        "image-too-large",
        "socket-path",
        "disk-unwritable",
        "disk-too-short",
        "disk-format",
        "disk-shared",
        "dedicated-file",
        "dedicated-shared",
    ];
    let mut tested: BTreeSet<&str> = cases().iter().map(|(rule, _, _)| *rule).collect();
    tested.extend(judged_otherwise);
    for rule in &tested {
        assert!(find(rule).is_some(), "{rule} is tested, but not in the table");
    }
    for rule in TABLE {
        let planned = frame::plan::RULES.contains(&rule.name) || ELSEWHERE.contains(&rule.name);
        assert!(planned || tested.contains(rule.name), "{} has no test", rule.name);
    }
    assert!(tested.len() >= 60, "only {} rules have a test here", tested.len());
}
