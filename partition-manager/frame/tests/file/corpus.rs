//! Many generated files: valid ones that break no rule, and valid ones with one seeded mistake.

use crate::support::place;
use frame::file::{Reading, read, render};
use proptest::prelude::*;

/// A fixed sequence of numbers (Knuth, The Art of Computer Programming, volume 2, section 3.3.4: MMIX).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.next(of.len())]
    }

    fn yes(&mut self) -> bool {
        self.next(2) == 0
    }
}

/// Lines of a valid frame file.
fn valid(seed: u64) -> Vec<String> {
    let mut rng = Numbers(seed);
    let mut lines: Vec<String> = vec![];
    let mut line = |text: String| lines.push(text);
    line("[frame]".into());
    line(format!("name = \"rack-{seed}\""));
    line(format!("memory_block = \"{}\"", rng.pick(&["1MiB", "2MiB", "4KiB"])));
    line(format!("reserved = {{ cpus = {}, memory = \"512MiB\" }}", rng.next(3)));
    if rng.yes() {
        line("minimum_units = 0.01".into());
    }
    let with_defaults = rng.yes();
    if with_defaults {
        line("[defaults]".into());
        line(format!("when_inactive = \"{}\"", rng.pick(&["hold", "release"])));
        line("shutdown = { ask = \"2s\" }".into());
    }
    let pools = 1 + rng.next(3);
    for pool in 0..pools {
        line("[[pool]]".into());
        line(format!("name = \"pool{pool}\""));
        line("cpus = 64".into());
    }
    for partition in 0..2 + rng.next(8) {
        line(rng.pick(&["", "# a partition"]).into());
        line("[[partition]]".into());
        if rng.next(4) == 0 {
            line(format!("name = \"many{partition}-{{n}}\""));
            line(format!("count = {}", 1 + rng.next(9)));
        } else {
            line(format!("name = \"part{partition}\""));
            line(format!("id = {}", 1000 + partition));
        }
        line(format!("availability_priority = {}", rng.next(256)));
        let pool = rng.next(pools);
        line(match rng.yes() {
            true => format!(
                "processors = {{ mode = \"dedicated\", minimum = 1, desired = {}, maximum = 16, io = \"pool:pool{pool}\" }}",
                1 + rng.next(16)
            ),
            false => format!(
                "processors = {{ mode = \"shared\", desired = 2, pool = \"pool{pool}\", units = {{ minimum = 0.1, desired = 0.4 }}, sharing = \"uncapped\", weight = {} }}",
                1 + rng.next(255)
            ),
        });
        line(format!(
            "memory = {{ minimum = \"32MiB\", desired = \"64MiB\", maximum = \"{}\" }}",
            rng.pick(&["64MiB", "1GiB", "2TiB"])
        ));
        line(format!(
            "boot = {}",
            rng.pick(&[
                "\"diagnostics\"",
                "{ kernel = \"vmlinuz\", initrd = \"initrd.img\", cmdline = \"console=ttyS0\" }",
                "{ payload = \"diagnostics\", cmdline = \"beat\" }",
                "{ kernel = \"unikernel\", modules = [{ path = \"m\", cmdline = \"x\" }] }"
            ])
        ));
        line(format!("auto_start = {}", rng.pick(&["true", "false"])));
        if rng.yes() {
            line(format!("exit_device = {}", rng.pick(&["true", "false"])));
            line(format!("panic_device = {}", rng.pick(&["true", "false"])));
            line(format!("watchdog = \"{}\"", rng.pick(&["none", "restart", "error"])));
        }
        if rng.yes() {
            line(format!("interrupts = \"{}\"", rng.pick(&["kernel", "split", "emulated"])));
        }
        if rng.yes() {
            line("shutdown = { ask = \"5s\", button = \"10s\", nmi = \"500ms\" }".into());
        }
    }
    lines
}

/// A kind of mistake: in a line with this text, this becomes that, and this rule is broken there.
const KINDS: &[(&str, &str, &str, &str)] = &[
    ("name = \"part", "name", "naem", "unknown-key"),
    ("name = \"part", "\"part", "\"Part", "bad-name"),
    ("name = \"part", "\"part", "\"-part", "bad-name"),
    ("name = \"part", "\"part", "\"p\u{e4}rt", "bad-name"),
    ("name = \"part", "part", "part-{n}-", "pattern-without-count"),
    ("name = \"part", "= \"", "= ", "syntax"),
    ("name = \"part", "=", "", "syntax"),
    ("name = \"many", "{n}", "one", "count-without-pattern"),
    ("name = \"many", "{n}", "{n}-{k}", "placeholder-unknown"),
    ("name = \"many", "many", "Many", "bad-name"),
    ("count = ", "count = ", "count = -", "out-of-range"),
    ("count = ", "count = ", "count = 100000", "out-of-range"),
    ("count = ", "count", "coutn", "unknown-key"),
    ("id = 1", "id = 1", "id = 99999", "out-of-range"),
    ("id = 1", "id = ", "id = -", "out-of-range"),
    ("id = 1", "= ", "= 1.", "wrong-type"),
    ("availability_priority", "= ", "= 1000", "out-of-range"),
    ("availability_priority", "_p", "-p", "unknown-key"),
    ("availability_priority", "= ", "= true #", "wrong-type"),
    ("mode = \"dedicated\"", "\"dedicated\"", "\"dedicatd\"", "bad-choice"),
    ("mode = \"dedicated\"", "minimum = 1", "minimum = 0", "out-of-range"),
    ("mode = \"dedicated\"", "minimum = 1", "minimum = 17", "range-order"),
    ("mode = \"dedicated\"", "maximum = 16", "maximum = 65", "out-of-range"),
    ("mode = \"dedicated\"", "maximum = 16", "maximum = \"16\"", "wrong-type"),
    ("mode = \"dedicated\"", "pool:", "pol:", "bad-io"),
    ("mode = \"dedicated\"", "pool:pool", "pool:lake", "pool-missing"),
    ("mode = \"dedicated\"", "io =", "weight = 1, io =", "key-of-other-mode"),
    ("mode = \"dedicated\"", "{ mode = \"dedicated\",", "{", "missing-key"),
    ("mode = \"shared\"", "\"shared\"", "\"sharde\"", "bad-choice"),
    ("mode = \"shared\"", "pool = \"pool", "pool = \"lake", "pool-missing"),
    ("mode = \"shared\"", "weight = ", "weight = 1000", "out-of-range"),
    ("mode = \"shared\"", "weight", "wieght", "unknown-key"),
    ("mode = \"shared\"", "\"uncapped\"", "\"capped\"", "weight-with-capped"),
    ("mode = \"shared\"", "desired = 0.4", "desired = 0.4005", "units-step"),
    ("mode = \"shared\"", "desired = 0.4", "desired = 2.4", "units-too-many"),
    ("mode = \"shared\"", "minimum = 0.1", "minimum = 0.5", "range-order"),
    ("mode = \"shared\"", "minimum = 0.1", "minimum = 0.001", "units-too-few"),
    ("mode = \"shared\"", "minimum = 0.1", "minimum = -1", "units-range"),
    ("mode = \"shared\"", "pool = ", "io = \"own\", pool = ", "key-of-other-mode"),
    ("memory = {", "\"64MiB\"", "\"64MB\"", "bad-size"),
    ("memory = {", "\"32MiB\"", "\"32769B\"", "not-a-multiple"),
    ("memory = {", "\"32MiB\"", "\"0B\"", "zero-size"),
    ("memory = {", "\"32MiB\"", "\"128TiB\"", "size-too-large"),
    ("memory = {", "\"32MiB\"", "\"66MiB\"", "range-order"),
    ("memory = {", "desired = \"64MiB\"", "desired = 64", "wrong-type"),
    ("memory = {", "maximum", "maximun", "unknown-key"),
    ("memory = {", "{ minimum", "{ base = \"128MiB\", minimum", "base-above-desired"),
    ("memory = {", "{ minimum", "{ pages = \"3MiB\", minimum", "bad-choice"),
    ("memory = {", "}", "", "syntax"),
    ("boot = \"diag", "diagnostics", "diagnostic", "bad-choice"),
    ("boot = \"diag", "\"diagnostics\"", "7", "wrong-type"),
    ("boot = { kernel", "kernel = ", "kernle = ", "unknown-key"),
    ("boot = { kernel", "{ kernel", "{ payload = \"diagnostics\", kernel", "boot-form"),
    ("boot = { kernel = \"vmlinuz\"", "\"vmlinuz\"", "\"\"", "bad-path"),
    ("boot = { kernel = \"vmlinuz\"", "initrd.img", "vmlinuz", "initrd-is-kernel"),
    ("boot = { kernel = \"vmlinuz\"", "console", "a\\u0000", "bad-cmdline"),
    ("boot = { kernel = \"unikernel\"", "path", "file", "unknown-key"),
    ("boot = { payload", "cmdline", "initrd = \"i\", cmdline", "payload-with-initrd"),
    ("boot = { payload", "cmdline", "modules = [], cmdline", "payload-with-modules"),
    ("auto_start = ", "= ", "= 1 #", "wrong-type"),
    ("auto_start = ", "auto_start", "autostart", "unknown-key"),
    ("interrupts = ", "\"kernel\"", "\"kernle\"", "bad-choice"),
    ("watchdog = ", "\"restart\"", "\"reboot\"", "bad-choice"),
    ("exit_device = ", "= ", "= \"", "syntax"),
    ("when_inactive = ", "= \"", "= \"un", "bad-choice"),
    ("shutdown = { ask = \"5s\"", "\"5s\"", "\"5\"", "bad-duration"),
    ("shutdown = { ask = \"5s\"", "\"10s\"", "\"48h\"", "bad-duration"),
    ("shutdown = { ask = \"2s\"", "ask", "aks", "unknown-key"),
    ("cpus = 64", "64", "0", "out-of-range"),
    ("cpus = 64", "cpus", "disk = 1\ncpus", "unknown-key"),
    ("name = \"pool", "\"pool", "\"pool_", "bad-name"),
    ("memory_block", "= \"", "= \"7", "memory-block"),
    ("reserved = {", "cpus = ", "cpus = -1", "out-of-range"),
    ("reserved = {", "512MiB", "512", "bad-size"),
    ("minimum_units", "0.01", "1.5", "units-range"),
    ("[[pool]]", "[[pool]]", "[[switch]]\n[[pool]]", "missing-key"),
    ("[frame]", "[frame]", "[frme]\n[frame]", "unknown-key"),
];

/// Where something is said by this rule.
fn lines_of(reading: &Reading, rule: &str) -> Vec<usize> {
    let of = reading.diagnostics.iter().filter(|diagnostic| diagnostic.rule == rule);
    of.flat_map(|diagnostic| diagnostic.labels.iter().map(|label| place(reading, label.span.start).1)).collect()
}

#[test]
fn three_hundred_mistakes_are_caught_on_their_lines() {
    let mut used = std::collections::BTreeSet::new();
    let mut failures = vec![];
    let mut made = 0;
    let mut seed = 0;
    while made < 300 {
        seed += 1;
        assert!(seed < 10_000, "only {made} files could be made");
        let kind = made % KINDS.len();
        let (within, from, to, rule) = KINDS[kind];
        let mut rng = Numbers(seed * 7919);
        let mut lines = valid(seed);
        let fit: Vec<usize> =
            (0..lines.len()).filter(|&at| lines[at].contains(within) && lines[at].contains(from)).collect();
        if fit.is_empty() {
            continue;
        }
        let at = fit[rng.next(fit.len())];
        lines[at] = lines[at].replacen(from, to, 1);
        let reading = read(&(lines.join("\n") + "\n"));
        made += 1;
        used.insert(kind);
        if reading.frame.is_some() || !lines_of(&reading, rule).contains(&(at + 1)) {
            let shown = render(&reading.diagnostics, &reading.sources);
            failures.push(format!("file {seed}, line {}, {rule}: {:?}\n{shown}", at + 1, lines[at]));
        }
    }
    assert_eq!(used.len(), KINDS.len());
    assert!(failures.is_empty(), "{} of 300:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_line_that_is_gone_is_missed_at_the_header() {
    for (seed, key) in (0..60).zip(["memory = ", "boot = ", "processors = "].into_iter().cycle()) {
        let mut lines = valid(seed);
        let at = lines.iter().position(|line| line.starts_with(key)).unwrap();
        let header = lines[..at].iter().rposition(|line| line == "[[partition]]").unwrap() + 1;
        lines.remove(at);
        let reading = read(&lines.join("\n"));
        assert_eq!(lines_of(&reading, "missing-key"), [header], "{}", render(&reading.diagnostics, &reading.sources));
    }
}

#[test]
fn two_claimants_are_both_on_their_lines() {
    for seed in 0..60 {
        let mut lines = valid(seed);
        let first = lines.iter().position(|line| line == "[[partition]]").unwrap();
        let until = lines[first + 1..].iter().position(|line| line == "[[partition]]").unwrap() + first + 1;
        let copy: Vec<String> = lines[first..until].to_vec();
        let again = lines.len();
        lines.extend(copy);
        let reading = read(&lines.join("\n"));
        assert_eq!(
            lines_of(&reading, "duplicate-name"),
            [again + 2, first + 2],
            "{}",
            render(&reading.diagnostics, &reading.sources)
        );
    }
}

#[test]
fn a_hundred_valid_files_raise_no_alarm() {
    for seed in 0..100 {
        let reading = read(&(valid(seed).join("\n") + "\n"));
        assert!(reading.diagnostics.is_empty(), "file {seed}:\n{}", render(&reading.diagnostics, &reading.sources));
        assert!(reading.frame.is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damage_never_ends_the_reader(
        seed in 0_u64..1000,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..6, "[\\]\\[{}=\"'.#a0,\n n:\u{e9}\u{202e}\u{0}\u{301}-]{0,4}"), 1..8),
    ) {
        let mut text: Vec<char> = valid(seed).join("\n").chars().collect();
        for (at, length, new) in damage {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, new.chars());
        }
        let text: String = text.into_iter().collect();
        let reading = read(&text);
        let shown = render(&reading.diagnostics, &reading.sources);
        prop_assert!(reading.frame.is_some() != frame::diagnostic::any_error(&reading.diagnostics), "{}", shown);
        prop_assert!(!shown.contains(['\u{202e}', '\u{0}']), "it misleads");
        for diagnostic in &reading.diagnostics {
            prop_assert!(frame::rule::find(diagnostic.rule).is_some());
            prop_assert!(diagnostic.help.is_some());
        }
    }
}
