//! Which tests of a run were skipped, and whether they were those that may be.
//!
//! A checked-in list says for each class of machine (or of run) which tests cannot run there. A run is in
//! order only if it skipped exactly these: a test that was skipped without being listed hides a hole, and
//! one that ran although it is listed shows that the list is stale.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// The list: classes by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SkipList {
    classes: BTreeMap<String, Class>,
}

/// One class of machine or of run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    /// What marks the class.
    #[serde(rename = "about")]
    _about: String,
    /// `target: test`, or `target: prefix*`.
    tests: Vec<String>,
}

/// What became of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It was skipped, for the reason that was printed (may be empty).
    Skipped(String),
}

/// What `cargo test` printed, understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// Outcomes by `target: test`. The target is the name of the test executable, or `doc CRATE`.
    pub tests: BTreeMap<String, Outcome>,
    /// The sum of the summary lines.
    pub totals: Totals,
}

/// The numbers of summary lines, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that were skipped.
    pub ignored: u64,
    /// Benchmarks.
    pub measured: u64,
    /// Tests left out by a filter.
    pub filtered_out: u64,
    /// Summary lines.
    pub summaries: u64,
    /// Seconds that the targets took, one after the other.
    pub seconds: f64,
}

impl Eq for Totals {}

impl fmt::Display for Totals {
    /// As the summary line of `cargo test` ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed; {} failed; {} ignored; {} measured; {} filtered out; finished in {:.2}s",
            self.passed, self.failed, self.ignored, self.measured, self.filtered_out, self.seconds
        )
    }
}

/// What is wrong with a run's skips.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The list has no such class.
    #[error("class `{0}` is not in the list of skips: add it, or name one of those that are")]
    NoClass(String),
    /// Skipped, and not listed.
    #[error(
        "`{test}` was skipped ({reason}) and is in none of this run's classes ({classes}): make it run, or add it to one"
    )]
    NotListed {
        /// The test.
        test: String,
        /// What it said.
        reason: String,
        /// The classes of this run.
        classes: String,
    },
    /// Listed, and run all the same.
    #[error("`{test}` ran though class `{class}` lists `{pattern}` as skipped: take it off the list")]
    Ran {
        /// The test.
        test: String,
        /// The class that lists it.
        class: String,
        /// Its line in the list.
        pattern: String,
    },
    /// Listed, and not among the tests.
    #[error("class `{class}` lists `{pattern}` but there is no such test: take it off the list, or mend its name")]
    NoTest {
        /// The class that lists it.
        class: String,
        /// Its line in the list.
        pattern: String,
    },
    /// The lines of tests and the summaries tell different numbers.
    #[error(
        "the summaries count {summary} {what} tests, the lines of single tests {lines}: the output cannot be trusted"
    )]
    Count {
        /// `skipped` or `failed`.
        what: &'static str,
        /// What the summaries say.
        summary: u64,
        /// What the lines say.
        lines: u64,
    },
}

impl SkipList {
    /// Reads the list.
    ///
    /// # Errors
    /// What is wrong with it, and where: it is TOML, a table for each class with `about` and `tests`.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Everything that is wrong with the skips of `run` on a machine of these classes. A run that left tests
    /// out by a filter says nothing about those that are not there.
    #[must_use]
    pub fn judge(&self, run: &Run, classes: &[String], filtered: bool) -> Vec<Problem> {
        let mut problems = run.miscounts();
        let mut patterns = Vec::new();
        for name in classes {
            match self.classes.get(name) {
                Some(class) => patterns.extend(class.tests.iter().map(|pattern| (name, pattern))),
                None => problems.push(Problem::NoClass(name.clone())),
            }
        }
        for (test, outcome) in &run.tests {
            if let Outcome::Skipped(reason) = outcome
                && !patterns.iter().any(|(_, pattern)| matches(pattern, test))
            {
                let reason = if reason.is_empty() { "no reason given" } else { reason }.to_owned();
                problems.push(Problem::NotListed { test: test.clone(), reason, classes: classes.join(", ") });
            }
        }
        for (class, pattern) in patterns {
            let mut known = false;
            for (test, outcome) in run.tests.iter().filter(|(test, _)| matches(pattern, test)) {
                known = true;
                if !matches!(outcome, Outcome::Skipped(_)) {
                    let (class, pattern) = (class.clone(), pattern.clone());
                    problems.push(Problem::Ran { test: test.clone(), class, pattern });
                }
            }
            if !known && !filtered {
                problems.push(Problem::NoTest { class: class.clone(), pattern: pattern.clone() });
            }
        }
        problems
    }
}

/// A pattern is a test's full name, or ends with `*` and is the beginning of one.
fn matches(pattern: &str, test: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == test, |beginning| test.starts_with(beginning))
}

impl Run {
    /// Reads what `cargo test` printed, standard output and error together, without colours. Lines that are
    /// not about tests are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut run = Self::default();
        let mut target = String::from("unknown");
        for line in text.lines() {
            let line = line.trim_end();
            if let Some(name) = target_of(line) {
                target = name;
            } else if let Some(rest) = line.strip_prefix("test result: ") {
                run.totals.add(rest);
            } else if let Some((test, outcome)) = outcome_of(line) {
                run.tests.insert(format!("{target}: {test}"), outcome);
            }
        }
        run
    }

    fn count(&self, wanted: fn(&Outcome) -> bool) -> u64 {
        self.tests.values().map(|outcome| u64::from(wanted(outcome))).sum()
    }

    fn miscounts(&self) -> Vec<Problem> {
        let skipped = self.count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        let failed = self.count(|outcome| matches!(outcome, Outcome::Failed));
        [("skipped", self.totals.ignored, skipped), ("failed", self.totals.failed, failed)]
            .into_iter()
            .filter(|(_, summary, lines)| summary != lines)
            .map(|(what, summary, lines)| Problem::Count { what, summary, lines })
            .collect()
    }
}

impl Totals {
    /// Adds `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s`.
    fn add(&mut self, summary: &str) {
        self.summaries += 1;
        let numbers = summary.split_once(". ").map_or("", |(_, numbers)| numbers);
        for part in numbers.split("; ") {
            let (number, what) = part.split_once(' ').unwrap_or_default();
            if let Some(seconds) = part.strip_prefix("finished in ") {
                self.seconds += seconds.trim_end_matches('s').parse().unwrap_or(0.0);
            }
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                "measured" => self.measured += number,
                "filtered out" => self.filtered_out += number,
                _ => {}
            }
        }
    }
}

/// The target that this line of cargo's announces.
fn target_of(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("doc {name}"));
    }
    let executable = line.strip_prefix("Running ")?.split_once('(')?.1.strip_suffix(')')?;
    let file = executable.rsplit('/').next()?;
    Some(file.rsplit_once('-').map_or(file, |(name, _hash)| name).to_owned())
}

/// `test NAME ... ok`, as libtest and libtest-mimic (which pads the names) print it.
fn outcome_of(line: &str) -> Option<(String, Outcome)> {
    let (name, end) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let outcome = match end {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        _ => {
            let reason = end.strip_prefix("ignored")?;
            let reason = reason.strip_prefix(", ").unwrap_or(reason);
            let bare = reason.strip_prefix(" (").and_then(|reason| reason.strip_suffix(')'));
            Outcome::Skipped(bare.unwrap_or(reason).trim().to_owned())
        }
    };
    // What should panic is marked behind its name.
    let name = name.trim_end().trim_end_matches(" - should panic");
    Some((name.to_owned(), outcome))
}

/// The class that this machine's KVM puts it in: `no-kvm`, `kvm-pvm` (no hardware virtualization), or `full-kvm`.
#[must_use]
pub fn machine_class() -> &'static str {
    let opens = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !opens {
        "no-kvm"
    } else if std::path::Path::new("/sys/module/kvm_pvm").exists() {
        "kvm-pvm"
    } else {
        "full-kvm"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"
[kvm-pvm]
about = "KVM without hardware virtualization"
tests = ["native: boot::linux"]

[no-testbed]
about = "QEMU is not there"
tests = ["full_kvm: *"]
"#;

    const OUTPUT: &str = "\
   Compiling frame v0.1.0
     Running unittests src/lib.rs (target/debug/deps/frame-0123456789abcdef)

running 3 tests
test name::tests::works ... ok
test name::tests::slow ... ignored, takes an hour
test units::tests::overflow - should panic ... ok

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.25s

     Running tests/full_kvm/main.rs (target/debug/deps/full_kvm-fedcba9876543210)

running 2 tests
test a   ... ignored (no QEMU (none))
test abc ... FAILED

test result: FAILED. 0 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.50s

   Doc-tests frame

running 1 test
test src/name.rs - name (line 3) ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    fn skipped(reason: &str) -> Outcome {
        Outcome::Skipped(reason.to_owned())
    }

    fn run(tests: &[(&str, Outcome)]) -> Run {
        let mut run = Run {
            tests: tests.iter().map(|(name, outcome)| ((*name).to_owned(), outcome.clone())).collect(),
            ..Run::default()
        };
        run.totals.ignored = run.count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        run.totals.failed = run.count(|outcome| matches!(outcome, Outcome::Failed));
        run
    }

    fn judge(tests: &[(&str, Outcome)], classes: &[&str], filtered: bool) -> Vec<Problem> {
        let classes: Vec<String> = classes.iter().map(|class| (*class).to_owned()).collect();
        SkipList::parse(LIST).unwrap().judge(&run(tests), &classes, filtered)
    }

    #[test]
    fn outcomes_of_both_harnesses_and_of_documentation_are_read() {
        let run = Run::parse(OUTPUT);
        let expected = [
            ("doc frame: src/name.rs - name (line 3)", Outcome::Passed),
            ("frame: name::tests::slow", skipped("takes an hour")),
            ("frame: name::tests::works", Outcome::Passed),
            ("frame: units::tests::overflow", Outcome::Passed),
            ("full_kvm: a", skipped("no QEMU (none)")),
            ("full_kvm: abc", Outcome::Failed),
        ];
        let read: Vec<_> = run.tests.iter().map(|(name, outcome)| (name.as_str(), outcome.clone())).collect();
        assert_eq!(read, expected);
        assert_eq!(
            run.totals.to_string(),
            "3 passed; 1 failed; 2 ignored; 0 measured; 4 filtered out; finished in 1.75s"
        );
        assert_eq!(run.totals.summaries, 3);
        assert!(run.miscounts().is_empty());
    }

    #[test]
    fn exactly_the_listed_skips_are_in_order() {
        let tests = [("native: boot::linux", skipped("ring 0")), ("native: x", Outcome::Passed)];
        assert!(judge(&tests, &["kvm-pvm"], false).is_empty());
    }

    #[test]
    fn a_skip_that_is_not_listed_is_a_problem() {
        let tests = [("native: boot::linux", skipped("")), ("native: x", skipped("tired"))];
        let problems = judge(&tests, &["kvm-pvm"], false);
        assert!(
            matches!(&problems[..], [Problem::NotListed { test, reason, .. }] if test == "native: x" && reason == "tired"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_skip_listed_for_another_class_is_a_problem() {
        let problems = judge(&[("full_kvm: a", skipped("no QEMU"))], &[], false);
        assert!(matches!(&problems[..], [Problem::NotListed { .. }]), "{problems:?}");
    }

    #[test]
    fn a_listed_test_that_ran_is_a_problem_even_if_it_failed() {
        for outcome in [Outcome::Passed, Outcome::Failed] {
            let tests = [("full_kvm: a", skipped("")), ("full_kvm: b", outcome)];
            let problems = judge(&tests, &["no-testbed"], false);
            assert!(matches!(&problems[..], [Problem::Ran { test, .. }] if test == "full_kvm: b"), "{problems:?}");
        }
    }

    #[test]
    fn a_listed_test_that_does_not_exist_is_a_problem_unless_tests_were_filtered() {
        let problems = judge(&[], &["kvm-pvm"], false);
        assert!(matches!(&problems[..], [Problem::NoTest { .. }]), "{problems:?}");
        assert!(judge(&[], &["kvm-pvm"], true).is_empty());
    }

    #[test]
    fn a_class_that_is_not_in_the_list_is_a_problem() {
        assert_eq!(judge(&[], &["moon"], false), [Problem::NoClass("moon".to_owned())]);
    }

    #[test]
    fn output_that_hides_a_skip_is_not_trusted() {
        // A line that another thread's output tore apart.
        let torn = OUTPUT.replace("test a   ... ignored (no QEMU (none))", "test a   ... noise\nignored (no QEMU)");
        let problems = Run::parse(&torn).miscounts();
        assert!(matches!(&problems[..], [Problem::Count { what: "skipped", summary: 2, lines: 1 }]), "{problems:?}");
    }

    #[test]
    fn a_list_with_a_key_that_is_not_known_is_refused() {
        assert!(SkipList::parse("[a]\nabout = \"\"\ntests = []\ntest = []\n").is_err());
    }

    #[test]
    fn the_checked_in_list_can_be_read() {
        let list = SkipList::parse(include_str!("../../skips.toml")).unwrap();
        for class in ["kvm-pvm", "full-kvm", "no-kvm", "testbed-unavailable", "quick", "not-full", "not-root"] {
            assert!(list.classes.contains_key(class), "{class}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_output_makes_the_reader_fail(text in "(test |Running |\\(|\\)| \\.\\.\\. |ignored|test result: |; |[a-z0-9 :.-]|\n){0,60}") {
            let run = Run::parse(&text);
            proptest::prop_assert!(run.tests.len() <= text.lines().count());
        }
    }
}
