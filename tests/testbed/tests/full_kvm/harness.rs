//! One boot for all tests of a run, one test after the other, and skips that are counted.

use std::fmt;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use testbed::{Error, Options, Testbed, install_bulkhead};

/// A test: its name and what it does.
pub type Test = (&'static str, fn(&mut Testbed) -> anyhow::Result<()>);

/// The machine that tests want; each socket is a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub sockets: u32,
    /// Of each socket.
    pub cores: u32,
}

/// Tests of one subject: its module, the machine that they want, and the tests.
pub type Group<'t> = (&'t str, Shape, &'t [Test]);

/// The reason why a test cannot run on this machine.
#[derive(Debug)]
pub struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// How many tests of a run may be repeated, each once, for what looks like a fault of the emulator.
///
/// QEMU up to 10.0 changes a processor's word of pending interrupts in `VMRUN` and `#VMEXIT` without a lock, while other
/// threads set bits in it. Now and then the bit of a virtual interrupt that is gone comes back so, and what runs next,
/// the guest or the emulated machine's own kernel, takes an interrupt of vector 0: a triple fault early in a boot, an
/// end of the whole machine later. A bit that is set meanwhile can be lost too: the machine stands still. Interrupts between CPUs make it likelier: with four CPUs on one node one boot of
/// Linux in some 340 failed, on two nodes one in nine. So tests have one CPU, unless they are about several.
const REPEATS: u32 = 3;

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
    shape: Shape,
    /// Why it could not be booted: told to every test, tried once.
    failed: Option<String>,
    /// Tests that were repeated.
    repeats: u32,
}

/// Runs the tests that the command line asks for.
pub fn run(groups: &[Group<'_>]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share one machine.
    arguments.test_threads = Some(1);
    let shared = Arc::new(Mutex::new(Shared::default()));
    let mut trials = Vec::new();
    for &(module, shape, tests) in groups {
        for &(name, test) in tests {
            let shared = Arc::clone(&shared);
            trials.push(Trial::ignorable_test(format!("{module}::{name}"), move || {
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                conclude(shared.run(shape, test))
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
    fn run(&mut self, shape: Shape, test: fn(&mut Testbed) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut repeated = false;
        loop {
            let testbed = self.testbed(shape)?;
            let Err(error) = test(testbed) else { return Ok(()) };
            if error.is::<Skip>() {
                return Err(error);
            }
            // What failed may have left partitions running, or the machine stuck: what is next gets a fresh one.
            self.testbed = None;
            let emulators =
                is_triple_fault(&error) || error.downcast_ref::<Error>().is_some_and(Error::is_machines_end);
            if !emulators || repeated || self.repeats == REPEATS {
                return Err(error);
            }
            self.repeats += 1;
            repeated = true;
            eprintln!(
                "\nEMULATOR'S FAULT {} of at most {REPEATS} in a run: the test is repeated in a fresh testbed after\n{error:#}",
                self.repeats
            );
        }
    }

    fn testbed(&mut self, shape: Shape) -> anyhow::Result<&mut Testbed> {
        if std::env::var_os("BULKHEAD_TESTBED").is_some_and(|value| value == "off") {
            return Err(skip("BULKHEAD_TESTBED=off leaves the testbed out"));
        }
        if let Some(why) = &self.failed {
            anyhow::bail!("the testbed could not be booted: {why}");
        }
        if self.shape != shape {
            self.testbed = None;
        }
        if self.testbed.is_none() {
            self.shape = shape;
            match boot(shape) {
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

/// Whether a guest took a triple fault. What the project does wrong every time fails in the repeat too; what it does
/// wrong seldom would pass, so each repeat is printed to be read.
fn is_triple_fault(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("took a triple fault")
}

fn boot(Shape { sockets, cores }: Shape) -> Result<Testbed, Error> {
    let files = match install_bulkhead() {
        Ok(files) => files,
        // Tests of the testbed itself run without; those of the binaries ask for them.
        Err(Error::NotBuilt { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    Testbed::boot(&Options { files, sockets, cores, ..Options::default() })
}
