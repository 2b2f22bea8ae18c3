//! The `partition` binary on this host's KVM, driven over its socket as a manager drives it.

mod containment;
mod endings;
mod guest;
mod harness;
mod hostile;
mod interrupts;
mod ladder;
mod multiboot;
mod payload;
mod pit;
mod protocol;
mod topology;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test.
type Test = (&'static str, fn() -> anyhow::Result<()>);

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let there = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let root = rustix::process::geteuid().is_root();
    let mut trials = Vec::new();
    for (name, test) in [
        payload::TESTS,
        endings::TESTS,
        ladder::TESTS,
        protocol::TESTS,
        hostile::TESTS,
        interrupts::TESTS,
        multiboot::TESTS,
        pit::TESTS,
        topology::TESTS,
    ]
    .concat()
    {
        trials.push(trial(format!("kvm::{name}"), test, there, "needs /dev/kvm"));
    }
    for (name, test) in containment::TESTS {
        trials.push(trial(format!("root::{name}"), *test, there && root, "needs /dev/kvm and root"));
    }
    for (name, test) in protocol::ALONE {
        trials.push(trial(format!("alone::{name}"), *test, true, ""));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: String, test: fn() -> anyhow::Result<()>, can: bool, needs: &str) -> Trial {
    let run = move || test().map_err(|error| Failed::from(format!("{error:?}")));
    let trial = Trial::test(name, run).with_ignored_flag(!can);
    if can { trial } else { trial.with_kind(needs) }
}
