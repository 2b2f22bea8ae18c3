//! What a guest does with its disk and its adapter, and who asks for it and takes the time.
//!
//! `load agent NAME ADDRESS DISK` runs in a guest and does what `load drive` asks for, over the adapter that is
//! measured. Every time is taken by the driver: the clocks of two guests are not compared.

mod agent;
mod driver;
mod work;

use anyhow::Result;
use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(about = "Loads of a disk and an adapter: the guest's side, and the side that takes the time")]
enum Arguments {
    /// Serves the driver at ADDRESS, in a guest.
    Agent {
        /// What the driver calls this guest.
        name: String,
        /// Where the driver listens.
        address: SocketAddr,
        /// The disk, of which nothing is written.
        disk: PathBuf,
    },
    /// Waits for the agents, has each do every load in turns, and prints the rates as JSON.
    Drive {
        /// Where to listen.
        address: SocketAddr,
        /// The agents; the first is measured twice in each round.
        #[arg(required = true)]
        names: Vec<String>,
        /// Rounds; one more before them is not counted.
        #[arg(long, default_value_t = 9)]
        rounds: usize,
    },
}

fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Agent { name, address, disk } => agent::serve(&name, address, &disk),
        Arguments::Drive { address, names, rounds } => {
            let outcome = driver::drive(address, &names, rounds)?;
            println!("{}", serde_json::to_string(&outcome)?);
            Ok(())
        }
    }
}
