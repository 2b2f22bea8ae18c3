//! One boot for all tests of a run, one test after the other, and skips that are counted.

use std::fmt;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use testbed::{Error, Options, Testbed, install_bulkhead};

/// A test: its name and what it does.
pub type Test = (&'static str, fn(&mut Testbed) -> anyhow::Result<()>);

/// The reason why a test cannot run on this machine.
#[derive(Debug)]
pub struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends a test as skipped: `return Err(skip("why"))`.
pub fn skip(reason: impl Into<String>) -> anyhow::Error {
    Skip(reason.into()).into()
}

/// Runs a command that must succeed, and gives its standard output.
pub fn output(testbed: &mut Testbed, command: &str, deadline: Duration) -> anyhow::Result<String> {
    let output = testbed.run(command, deadline)?;
    anyhow::ensure!(output.success(), "`{command}` exited with {}\n{}{}", output.status, output.stdout, output.stderr);
    Ok(output.stdout)
}

/// The testbed of this run, booted by the first test that needs it.
#[derive(Default)]
struct Shared {
    testbed: Option<Testbed>,
    /// Why it could not be booted: told to every test, tried once.
    failed: Option<String>,
}

/// Runs the tests that the command line asks for; `groups` are (module, its tests).
pub fn run(groups: &[(&str, &[Test])]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share one machine.
    arguments.test_threads = Some(1);
    let shared = Arc::new(Mutex::new(Shared::default()));
    let mut trials = Vec::new();
    for (module, tests) in groups {
        for &(name, test) in *tests {
            let shared = Arc::clone(&shared);
            trials.push(Trial::ignorable_test(format!("{module}::{name}"), move || {
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                conclude(shared.run(test))
            }));
        }
    }
    // The testbed ends with `shared`, when this returns.
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn conclude(result: anyhow::Result<()>) -> Result<Completion, Failed> {
    match result {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => Err(format!("{error:#}").into()),
        },
    }
}

impl Shared {
    fn run(&mut self, test: fn(&mut Testbed) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let testbed = self.testbed()?;
        let result = test(testbed).map_err(|error| with_flight_record(testbed, error));
        // What failed may have left partitions running, or the machine stuck: the next test gets a fresh one.
        if let Err(error) = &result
            && !error.is::<Skip>()
        {
            self.testbed = None;
        }
        result
    }

    fn testbed(&mut self) -> anyhow::Result<&mut Testbed> {
        if std::env::var_os("BULKHEAD_TESTBED").is_some_and(|value| value == "off") {
            return Err(skip("BULKHEAD_TESTBED=off leaves the testbed out"));
        }
        if let Some(why) = &self.failed {
            anyhow::bail!("the testbed could not be booted: {why}");
        }
        if self.testbed.is_none() {
            match boot() {
                Ok(testbed) => self.testbed = Some(testbed),
                Err(error @ Error::NotProvisioned { .. }) => return Err(skip(error.to_string())),
                Err(error) => {
                    self.failed = Some(error.to_string());
                    return Err(error.into());
                }
            }
        }
        self.testbed.as_mut().ok_or_else(|| anyhow::anyhow!("the testbed is gone"))
    }
}

/// Adds to `error` what KVM recorded before a triple fault stopped its recorder, if one did (`host-init.sh`).
fn with_flight_record(testbed: &mut Testbed, error: anyhow::Error) -> anyhow::Error {
    const RECORD: &str = "cd /sys/kernel/tracing && [ \"$(cat tracing_on)\" = 0 ] && tail -n 60 trace";
    if error.is::<Skip>() {
        return error;
    }
    match testbed.run(RECORD, Duration::from_secs(30)) {
        Ok(record) if record.success() => {
            anyhow::anyhow!("{error:#}\nKVM's record before the triple fault:\n{}", record.stdout)
        }
        // No triple fault, or a machine that does not answer: the error is all there is.
        Ok(_) | Err(_) => error,
    }
}

fn boot() -> Result<Testbed, Error> {
    let files = match install_bulkhead() {
        Ok(files) => files,
        // Tests of the testbed itself run without; those of the binaries ask for them.
        Err(Error::NotBuilt { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    Testbed::boot(&Options { files, ..Options::default() })
}
