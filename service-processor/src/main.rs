//! `service-processor`: the process that watches a frame.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use frame::api::NOT_DOWN;
use frame::root::Root;
use service_processor::driver::{Outcome, Setup};
use service_processor::errors::Error;
use service_processor::log::Log;
use service_processor::store::Store;
use service_processor::{api, applied, driver};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::oneshot;

/// Watches the partition manager of a frame and keeps the frame's event log.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Starts or adopts the frame's partition manager and keeps it alive until the frame is brought down.
    Run {
        /// Directory of sockets and of what is true only while the host runs.
        #[arg(long, value_name = "DIR")]
        run: PathBuf,
        /// Directory of what outlives the host.
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        /// The frame file to apply; without it, the one that was applied last.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// The partition manager's executable; by default the one beside this one.
        #[arg(long, value_name = "FILE")]
        manager_binary: Option<PathBuf>,
    },
}

/// How often it is looked whether the API has ended.
const LAST_REQUESTS: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    os::private::mask();
    let Verb::Run { run, state, file, manager_binary } = Arguments::parse().verb;
    // A log that cannot be written, on a full disk, is no reason to panic, which saying so there would be.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .log_internal_errors(false)
        .init();
    match serve(Root { run, state }, file.as_deref(), manager_binary) {
        Ok(status) => status,
        Err(error) => {
            // Nobody reads it if even this fails.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("error: {error:#}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn serve(root: Root, file: Option<&Path>, manager: Option<PathBuf>) -> Result<ExitCode> {
    let manager = match manager {
        Some(manager) => manager,
        None => std::env::current_exe().context("cannot find this executable")?.with_file_name("partition-manager"),
    };
    for directory in [&root.run, &root.state] {
        os::private::make(directory)?;
    }
    let database = root.event_database();
    let mut store = match Store::open(&database) {
        Ok(store) => Some(store),
        // A frame that runs is watched on without its log; a new one is not begun.
        Err(error) if file.is_none() => {
            tracing::error!(%error, log = %database.display(), "the event log cannot be opened");
            None
        }
        Err(error) => return Err(error).context(format!("cannot open the event log {}", database.display())),
    };
    let frame = applied::apply(&root, file, store.as_mut())?;
    let log = Log::start(database, store)?;

    let socket = root.service_processor_socket();
    let listener = api::bind(&socket).map_err(Error::file("listen at", &socket))?;
    let (requests, messages) = driver::queue();
    let router = api::router(api::Reach { driver: requests.clone(), log: log.clone() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot serve the API")?;
    let (end, ended) = oneshot::channel();
    let server = std::thread::Builder::new()
        .name("api".into())
        .spawn(move || runtime.block_on(api::serve(listener, router, ended)))
        .context("cannot start the API's thread")?;

    let outcome = driver::run(Setup { root, frame, manager, log, first: file.is_some() }, requests, &messages);
    // Clients that wait for the frame to come down get their answers before the process ends.
    let _ = end.send(());
    while !server.is_finished() {
        // Those who ask now are told that they are too late, by losing their reply.
        drop(messages.recv_timeout(LAST_REQUESTS));
    }
    match server.join() {
        Ok(served) => served.context("the API's socket failed")?,
        Err(_) => bail!("the API's thread failed"),
    }
    let _ = std::fs::remove_file(socket);
    match outcome? {
        Outcome::Down => Ok(ExitCode::SUCCESS),
        Outcome::NotUp(reason) => bail!(reason),
        Outcome::NotDown(reason) => {
            tracing::error!("{reason}");
            Ok(ExitCode::from(NOT_DOWN))
        }
    }
}
