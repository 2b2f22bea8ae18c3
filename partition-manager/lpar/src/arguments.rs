//! What can be typed.

use crate::duration;
use clap::{Args, Parser, Subcommand, ValueEnum};
use frame::name::Name;
use frame::state::State;
use std::path::PathBuf;
use std::time::Duration;

/// Logical partitions on Linux and KVM.
///
/// Exit status: 0 done (or done already), 1 refused or failed with the reason on standard error, 2 wrong
/// usage, 3 timed out.
#[derive(Clone, Debug, Parser)]
#[command(name = "lpar", version, propagate_version = true)]
pub struct Arguments {
    /// What applies to every verb.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What applies to every verb.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every verb")]
pub struct Common {
    /// Answer in JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Directory that holds everything of the running frame.
    #[arg(long, global = true, env = "BULKHEAD_ROOT", value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// The running frame, by name; needed when several run and no --root says which.
    #[arg(long, global = true, value_name = "NAME", value_parser = |text: &str| Name::new(text))]
    pub frame: Option<Name>,
}

// Not a comment that documents: that would take the place of what the verb says of itself.
// A partition's name.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// The partition.
    #[arg(value_parser = |text: &str| Name::new(text))]
    pub name: Name,
}

/// When output has colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal that shows them, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

// Options of `plan`; documented as `Which` is not.
#[derive(Clone, Debug, Args)]
pub struct PlanOptions {
    /// Plan for the host described in this JSON file instead of this host.
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// Draw the plan into this file as SVG; - is standard output.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// List every partition, also where they are many.
    #[arg(long)]
    pub all: bool,
    /// When to use colours.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub color: Colour,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
// A verb's arguments are described when it is asked for: to describe those of all takes longer than most verbs.
#[command(defer = true)]
pub enum Verb {
    /// Check a frame file: everything that is wrong with it, at once.
    Check {
        /// The frame file.
        file: PathBuf,
    },
    /// Show who would get which processors and memory; changes nothing.
    Plan {
        /// The frame file.
        file: PathBuf,
        /// For which machine, and how it is drawn.
        #[command(flatten)]
        options: PlanOptions,
    },
    /// Bring a frame up and supervise it until Ctrl-C; or, detached, in the background.
    Up {
        /// The frame file.
        file: PathBuf,
        /// Leave the frame running in the background once its partitions run.
        #[arg(long)]
        detach: bool,
    },
    /// Declare a running frame anew, as a changed file does: all of it, or nothing.
    Apply {
        /// The frame file.
        file: PathBuf,
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Compare a frame file with what is in force, and that with what runs.
    Diff {
        /// The frame file; the one that the frame was brought up with when absent.
        file: Option<PathBuf>,
        /// Leave with status 1 when something is different.
        #[arg(long)]
        exit_code: bool,
    },
    /// Set values of a partition, within its bounds; the frame file is not changed.
    Set {
        /// The partition.
        #[command(flatten)]
        which: Which,
        /// Keys as in the frame file, such as processors.units.desired=0.5 or memory.desired=512MiB.
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = assignment)]
        values: Vec<(String, String)>,
    },
    /// Bring the frame down: shut every partition down and end the daemons.
    Down {
        /// Stop the partitions at once instead of asking them.
        #[arg(long)]
        immediate: bool,
    },
    /// List the partitions.
    Ls {
        /// Only these values, separated by commas, a line for each partition.
        #[arg(short = 'F', value_name = "FIELDS", value_delimiter = ',')]
        fields: Option<Vec<String>>,
        /// With -F: the names of the fields first.
        #[arg(long, requires = "fields")]
        header: bool,
    },
    /// Show everything about one partition.
    Show(Which),
    /// Start a partition.
    Activate(Which),
    /// Shut a partition down: ask, press the power button, interrupt, stop.
    Shutdown {
        /// The partition.
        #[command(flatten)]
        which: Which,
        /// Stop it at once instead of asking.
        #[arg(long)]
        immediate: bool,
        /// Start it again afterwards.
        #[arg(long)]
        restart: bool,
    },
    /// Wait until a partition is in a state.
    Wait {
        /// The partition.
        #[command(flatten)]
        which: Which,
        /// The state, such as Running or "Not Activated".
        #[arg(long)]
        state: State,
        /// How long to wait at most, such as 5s or 500ms.
        #[arg(long, value_parser = duration::parse, value_name = "TIME", default_value = "60s")]
        timeout: Duration,
    },
    /// Say that a device was serviced: frozen for good, its guest may reset it; quarantined, it interrupts again.
    Service {
        /// The partition.
        #[command(flatten)]
        which: Which,
        /// The device, as `lpar devices` names it.
        #[arg(value_parser = |text: &str| Name::new(text))]
        device: Name,
    },
    /// Open the console of a partition; Enter, then ~ and . leave it.
    Console {
        /// The partition.
        #[command(flatten)]
        which: Which,
        /// A port of its console device instead: "hvc0", its second terminal, or one that the frame file names.
        #[arg(long, conflicts_with = "force", value_parser = |text: &str| Name::new(text))]
        port: Option<Name>,
        /// Take the console over from whoever has it.
        #[arg(long)]
        force: bool,
        /// Print what was written so far and leave.
        #[arg(long)]
        history: bool,
    },
    /// Show what partitions did: exits by reason, processor time, memory.
    Stat {
        /// The partition; all of them when absent.
        #[arg(value_parser = |text: &str| Name::new(text))]
        name: Option<Name>,
    },
    /// Show devices: what each is, whether it works, what an adapter dropped.
    Devices {
        /// The partition; all of them when absent.
        #[arg(value_parser = |text: &str| Name::new(text))]
        name: Option<Name>,
    },
    /// Show interrupt sources: whose each is, where it leads, what became of it.
    Interrupts {
        /// The partition; all of them when absent.
        #[arg(value_parser = |text: &str| Name::new(text))]
        name: Option<Name>,
        /// Show instead the host's own interrupts that the frame sends elsewhere: those of dedicated devices to their
        /// partition's CPUs, all others away from CPUs that are a partition's alone.
        #[arg(long)]
        host: bool,
    },
    /// Show the event log.
    Events {
        /// Go on with events as they come, one line each, until Ctrl-C.
        #[arg(long)]
        follow: bool,
        /// Only the newest so many.
        #[arg(short = 'n', value_name = "NUMBER")]
        newest: Option<usize>,
    },
    /// Explain a reference code or a rule of the frame file; without one, list them all.
    Explain {
        /// The code, eight characters, as in the event log; or the rule, as `lpar check` says it.
        code: Option<String>,
    },
    /// Look for a while whether the host is as the frame divides it; exit status 1 when something is broken.
    Audit {
        /// How long to look, such as 10s or 5m; at most an hour.
        #[arg(long = "for", value_parser = duration::parse, value_name = "TIME", default_value = "1s")]
        time: Duration,
        /// Write a page with all figures, to be read in a browser.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
    /// Say what this host can do for a frame, and what it lacks.
    Doctor {
        /// Print only the inventory, in the form that `plan --inventory` reads.
        #[arg(long)]
        inventory: bool,
    },
    /// The supervisor of a detached frame.
    #[command(hide = true)]
    Supervise {
        /// Directory of sockets.
        #[arg(long)]
        run: PathBuf,
        /// Directory of what stays.
        #[arg(long)]
        state: PathBuf,
        /// The frame file; without it the frame that was left is brought down.
        #[arg(long)]
        file: Option<PathBuf>,
        /// Bring it down at once.
        #[arg(long)]
        immediate: bool,
    },
}

/// A key and its value.
fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, such as memory.desired=512MiB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Arguments, ErrorKind> {
        Arguments::try_parse_from(std::iter::once("lpar").chain(line.split('|').filter(|part| !part.is_empty())))
            .map_err(|error| error.kind())
    }

    #[test]
    fn the_command_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn only_verbs_that_exist_are_listed() {
        let command = Arguments::command();
        let mut listed: Vec<_> =
            command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(clap::Command::get_name).collect();
        listed.sort_unstable();
        assert_eq!(
            listed,
            [
                "activate",
                "apply",
                "audit",
                "check",
                "console",
                "devices",
                "diff",
                "doctor",
                "down",
                "events",
                "explain",
                "interrupts",
                "ls",
                "plan",
                "service",
                "set",
                "show",
                "shutdown",
                "stat",
                "up",
                "wait"
            ]
        );
    }

    #[test]
    fn common_options_stand_on_either_side() {
        for line in ["--json|--root|/r|ls", "ls|--json|--root|/r"] {
            let arguments = parse(line).unwrap();
            assert!(arguments.common.json);
            assert_eq!(arguments.common.root, Some("/r".into()));
        }
    }

    #[test]
    fn states_and_times_are_read_as_people_write_them() {
        let Verb::Wait { state, timeout, .. } = parse("wait|db|--state|not-activated|--timeout|500ms").unwrap().verb
        else {
            panic!()
        };
        assert_eq!((state, timeout), (State::NotActivated, Duration::from_millis(500)));
        assert_eq!(parse("wait|db|--state|Runing").unwrap_err(), ErrorKind::ValueValidation);
        assert_eq!(parse("wait|db|--state|Running|--timeout|5").unwrap_err(), ErrorKind::ValueValidation);
        assert_eq!(parse("wait|db").unwrap_err(), ErrorKind::MissingRequiredArgument);
    }

    #[test]
    fn wrong_usage_is_seen() {
        assert_eq!(parse("").unwrap_err(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
        assert_eq!(parse("set|db|processors.desired").unwrap_err(), ErrorKind::ValueValidation);
        assert_eq!(parse("set|db").unwrap_err(), ErrorKind::MissingRequiredArgument);
        assert_eq!(parse("show|Not/A/Name").unwrap_err(), ErrorKind::ValueValidation);
        assert_eq!(parse("ls|--header").unwrap_err(), ErrorKind::MissingRequiredArgument);
        assert_eq!(parse("up").unwrap_err(), ErrorKind::MissingRequiredArgument);
        assert_eq!(parse("events|-n|-3").unwrap_err(), ErrorKind::UnknownArgument);
        let Verb::Ls { fields, .. } = parse("ls|-F|name,state").unwrap().verb else { panic!() };
        assert_eq!(fields.unwrap(), ["name", "state"]);
    }
}
