//! `lpar`: what people type.

mod arguments;
mod console;
mod daemons;
mod declaration;
mod down;
mod draw;
mod duration;
mod failure;
mod host;
mod lock;
mod remarks;
mod roots;
mod show;
mod sockets;
mod supervisor;
mod up;
mod verbs;
mod watch;
mod whole;

use arguments::{Arguments, Verb};
use clap::Parser;
use failure::Outcome;
use frame::api::{DownRequest, ServiceRequest, ShutdownRequest};
use frame::root::Root;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(Arguments { common, verb }: Arguments) -> Outcome {
    match verb {
        Verb::Check { file } => verbs::check(&common, &file),
        Verb::Plan { file, options } => verbs::plan(&common, &file, &options),
        Verb::Up { file, detach } => up::up(&common, &file, detach),
        Verb::Apply { file, dry_run } => verbs::apply(&common, &file, dry_run),
        Verb::Diff { file, exit_code } => verbs::diff(&common, file.as_deref(), exit_code),
        Verb::Set { which, values } => verbs::set(&common, &which.name, &values),
        Verb::Down { immediate } => down::down(&common, DownRequest { immediate }),
        Verb::Ls { fields, header } => verbs::ls(&common, fields.as_deref(), header),
        Verb::Show(which) => verbs::show(&common, &which.name),
        Verb::Activate(which) => verbs::activate(&common, &which.name),
        Verb::Shutdown { which, immediate, restart } => {
            verbs::shutdown(&common, &which.name, ShutdownRequest { immediate, restart })
        }
        Verb::Service { which, device } => verbs::service(&common, &which.name, &ServiceRequest { device }),
        Verb::Wait { which, state, timeout } => verbs::wait(&common, &which.name, state, timeout),
        Verb::Console { which, port: None, force, history } => console::run(&common, &which.name, force, history),
        Verb::Console { which, port: Some(port), history, .. } => console::join(&common, &which.name, &port, history),
        Verb::Devices { name } => verbs::devices(&common, name.as_ref()),
        Verb::Interrupts { name, host: false } => verbs::interrupts(&common, name.as_ref()),
        Verb::Interrupts { name, host: true } => verbs::host_interrupts(&common, name.as_ref()),
        Verb::Stat { name } => verbs::stat(&common, name.as_ref()),
        Verb::Events { follow, newest } => verbs::events(&common, follow, newest),
        Verb::Explain { code } => verbs::explain(&common, code.as_deref()),
        Verb::Audit { time, report } => verbs::audit(&common, time, report.as_deref()),
        Verb::Doctor { inventory } => verbs::doctor(&common, inventory),
        Verb::Supervise { run, state, file, immediate } => {
            up::supervise(Root { run, state }, file.as_deref(), immediate)
        }
    }
}
