//! `partition`: one running partition.
//!
//! Descriptor 3 is a listening `SOCK_SEQPACKET` socket; the manager connects to it and sends everything else.
//! Without it there is nothing to do. `--image` writes the built-in payload to standard output.

use anyhow::{Context, Result, bail};
use frame::jail::ARGUMENT;
use partition::diagnostics::IMAGE;
use partition::driver::{self, Driver};
use partition::jail::wall;
use std::io::Write;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::process::ExitCode;

/// Where the listening socket is.
const LISTENER: i32 = 3;

const USAGE: &str = "usage: partition            with a listening SOCK_SEQPACKET socket as descriptor 3
       partition --jail N   the same, as user and group N in an empty root, without privileges;
                            with a further 5 the root is that of the namespace of mounts that descriptor 5 is
       partition --image    write the built-in payload to standard output
       partition --version";

fn main() -> ExitCode {
    match perform() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("partition: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn perform() -> Result<ExitCode> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.iter().map(|argument| argument.to_str()).collect::<Vec<_>>().as_slice() {
        [] => serve(),
        [Some(ARGUMENT), sentence @ ..] => {
            let sentence: Option<Vec<&str>> = sentence.iter().copied().collect();
            wall::enter(&sentence.context("who to be was expected")?)?;
            serve()
        }
        [Some("--image")] => {
            std::io::stdout().write_all(IMAGE).context("the payload cannot be written to standard output")?;
            Ok(ExitCode::SUCCESS)
        }
        [Some("--version")] => {
            println!("partition {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        [Some("--help")] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("these arguments are not known\n{USAGE}"),
    }
}

fn serve() -> Result<ExitCode> {
    // One heap for all threads, which seldom ask for memory: a heap for each takes memory and calls to begin.
    // SAFETY: sets an option of the C library's allocator (mallopt(3)); there is one thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    std::panic::set_hook(Box::new(|panic| {
        driver::fail(&panic.to_string());
        eprintln!("partition: {panic}");
        std::process::abort();
    }));
    const NEEDED: &str = "descriptor 3 must be a listening socket; it is the manager that starts this program";
    // SAFETY: nothing is done with the number but to ask whether it is open.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(LISTENER) }).context(NEEDED)?;
    // SAFETY: it is open, and by the contract with whoever starts this program it is this process's to own.
    let listener = unsafe { OwnedFd::from_raw_fd(LISTENER) };
    let driver = Driver::new(listener).context(NEEDED)?;
    let status = driver.run().context("the partition cannot wait for events")?;
    Ok(ExitCode::from(status))
}
