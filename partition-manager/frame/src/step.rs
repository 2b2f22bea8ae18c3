//! The journal of what is done about a partition: each step is written down before it is taken.
//!
//! From the steps alone follows what may exist on the host, whichever step was the last before the manager
//! was lost. So its successor can take over what lives and remove what does not.

use serde::{Deserialize, Serialize};

/// Which process of which boot (the same three values as the host gives them).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The boot of the host.
    pub boot: String,
    /// The process number.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

/// One step about one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// These groups are about to be made.
    Confine {
        /// Their directories, outermost hierarchy first.
        groups: Vec<String>,
    },
    /// A socket is about to be bound.
    Listen {
        /// Its path.
        socket: String,
    },
    /// A process is about to be started.
    Spawn {
        /// Which incarnation of the partition.
        incarnation: u64,
    },
    /// The process was started.
    Spawned {
        /// Which.
        process: Process,
    },
    /// The process is gone and its socket is about to be removed.
    Reaped,
    /// All that was its is about to be given up; the last step of a life.
    Release,
}

/// What may exist of a partition on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Groups that may have been made.
    pub groups: Vec<String>,
    /// The socket that may be bound.
    pub socket: Option<String>,
    /// The process that was started.
    pub process: Option<Process>,
    /// A process may have been started that nobody wrote down.
    pub unknown_process: bool,
}

/// What may exist after these steps, of which the last may have been taken, or not, or in part.
#[must_use]
pub fn holdings<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Holdings {
    let mut held = Holdings::default();
    for step in steps {
        match step {
            Step::Confine { groups } => held.groups.extend(groups.iter().cloned()),
            Step::Listen { socket } => held.socket = Some(socket.clone()),
            Step::Spawn { .. } => held.unknown_process = true,
            Step::Spawned { process } => {
                held.process = Some(process.clone());
                held.unknown_process = false;
            }
            Step::Reaped => {
                held.process = None;
                held.unknown_process = false;
            }
            // Written before it is done: the groups may still be there, and making sure costs nothing.
            Step::Release => {}
        }
    }
    held.groups.sort();
    held.groups.dedup();
    held
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn process(pid: u32) -> Process {
        Process { boot: "b".into(), pid, start: u64::from(pid) }
    }

    /// What a host has while a partition is activated, restarted by its guest `restarts` times and released.
    fn life(restarts: u32) -> Vec<Step> {
        let mut steps = vec![Step::Confine { groups: vec!["/g/a".into(), "/h/a".into()] }];
        for incarnation in 0..=restarts {
            steps.push(Step::Listen { socket: "/s/a".into() });
            steps.push(Step::Spawn { incarnation: u64::from(incarnation) });
            steps.push(Step::Spawned { process: process(incarnation + 1) });
            steps.push(Step::Reaped);
        }
        steps.push(Step::Release);
        steps
    }

    proptest! {
        // A step in the journal may have been carried out or not: what it makes counts as there, and what it
        // removes counts as there until a later step.
        #[test]
        fn nothing_that_may_exist_is_forgotten(restarts in 0u32..4, cut in 0usize..40) {
            let steps = life(restarts);
            let steps = &steps[..cut.min(steps.len())];
            let held = holdings(steps);
            prop_assert_eq!(held.groups.len(), if steps.is_empty() { 0 } else { 2 });
            let listened = steps.iter().any(|step| matches!(step, Step::Listen { .. }));
            prop_assert_eq!(held.socket.is_some(), listened);
            match steps.last() {
                Some(Step::Spawn { .. }) => prop_assert!(held.unknown_process),
                Some(Step::Spawned { process }) => prop_assert_eq!(held.process.as_ref(), Some(process)),
                Some(Step::Reaped | Step::Release) => {
                    prop_assert!(held.process.is_none() && !held.unknown_process);
                }
                _ => prop_assert!(!held.unknown_process),
            }
        }
    }

    #[test]
    fn a_restart_does_not_name_the_old_process() {
        let steps = life(1);
        let until_second_spawn = steps.iter().rposition(|step| matches!(step, Step::Spawn { .. })).unwrap();
        let held = holdings(&steps[..=until_second_spawn]);
        assert_eq!(held.process, None);
        assert!(held.unknown_process);
    }
}
