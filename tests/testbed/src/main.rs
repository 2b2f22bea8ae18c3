//! `testbed`: the testbed by hand.

use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use testbed::{Options, Testbed};

/// A full KVM in software emulation, and what the tests around it need.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Boot a testbed and run a shell command in it; its exit status is the command's.
    Run {
        /// Put a file of this host into it, as HERE:THERE.
        #[arg(long = "file", value_name = "HERE:THERE")]
        files: Vec<String>,
        /// Logical CPUs.
        #[arg(long, default_value_t = 4)]
        cpus: u32,
        /// Memory in MiB.
        #[arg(long, default_value_t = 2048)]
        memory: u64,
        /// Added to the kernel's command line.
        #[arg(long, default_value = "")]
        append: String,
        /// Seconds that the command may take.
        #[arg(long, default_value_t = 300)]
        deadline: u64,
        /// The four binaries go into /usr/bin.
        #[arg(long)]
        bulkhead: bool,
        /// The command line.
        command: String,
    },
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    match Arguments::parse().verb {
        Verb::Run { files, cpus, memory, append, deadline, bulkhead, command } => {
            let mut pairs = if bulkhead { testbed::install_bulkhead()? } else { Vec::new() };
            for file in files {
                let (here, there) = file.split_once(':').context("--file wants HERE:THERE")?;
                pairs.push((here.into(), there.to_owned()));
            }
            let options =
                Options { cpus, memory_mib: memory, files: pairs, kernel_arguments: append, ..Options::default() };
            let mut testbed = Testbed::boot(&options)?;
            eprintln!(
                "testbed: up after {:.1} s; console in {}",
                testbed.boot_time().as_secs_f64(),
                testbed.log().display()
            );
            let output = testbed.run(&command, Duration::from_secs(deadline))?;
            print!("{}", output.stdout);
            eprint!("{}", output.stderr);
            Ok(u8::try_from(output.status).unwrap_or(1).into())
        }
    }
}
