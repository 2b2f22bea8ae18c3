//! How many descriptors the manager may hold, and how many its frame needs.

use frame::declare::{Console, Frame, Partition};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the manager holds of a partition besides its memory and its virtual processors: its process, the
/// connection to it, its record, its doorbell.
const EACH: u64 = 4;
/// What is open for a moment only, while one partition is made: `/dev/kvm`, kernel, initial RAM disk and
/// modules, images, taps, doors to its groups, its listening sockets, a socket that its guest calls, the pipe by which a failed start is heard of.
const MAKING: u64 = 32;
/// The manager's own, those of its API's clients (64 connections at once) and of open consoles.
const OWN: u64 = 256;

/// Descriptors that a frame needs at most, with all its partitions active on a host of `nodes` NUMA nodes.
#[must_use]
pub fn needed(frame: &Frame, nodes: usize) -> u64 {
    let each = |partition: &Partition| {
        // A partition has one range of memory on each node at most, and one connection for its guest's calls.
        let own = EACH + nodes.max(1) as u64 + u64::from(partition.vsock.is_some());
        own.saturating_add(u64::from(partition.processors.count.maximum))
    };
    // Its taps are open for as long as one partition is made.
    let taps =
        |network: &frame::declare::Network| u64::from(network.queues).saturating_mul(1 + network.tagged.len() as u64);
    let taps = frame.partitions.iter().map(|partition| partition.networks.iter().map(taps).sum::<u64>());
    let ports = frame.partitions.iter().map(|partition| partition.console.iter().flat_map(Console::names).count());
    let making = MAKING.saturating_add(taps.max().unwrap_or(0)).saturating_add(ports.max().unwrap_or(0) as u64);
    let partitions = frame.partitions.iter().map(each);
    partitions.fold(OWN + making, u64::saturating_add)
}

/// Lets this process hold as many descriptors as are `needed`, or as many as it may at all; when that is too
/// few, gives a line that says so.
#[must_use]
pub fn raise(needed: u64) -> Option<String> {
    let limit = getrlimit(Resource::Nofile);
    // No limit is as good as a limit that suffices.
    let (current, maximum) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let wanted = needed.min(maximum);
    let mut has = current;
    if wanted > current {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }) {
            Ok(()) => has = wanted,
            Err(error) => tracing::warn!("the limit on open files stays at {current}: {error}"),
        }
    }
    lack(has, needed)
}

fn lack(has: u64, needed: u64) -> Option<String> {
    (has < needed).then(|| {
        format!(
            "the manager may hold {has} open files, and needs up to {needed} when every partition is active: some may fail to activate; raise the hard limit (`ulimit -Hn`, LimitNOFILE= of systemd)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &str = r#"
        [frame]
        name = "t"
        [[partition]]
        name = "a"
        processors = { mode = "dedicated", minimum = 1, desired = 1, maximum = 3 }
        memory = { desired = "6MiB" }
        boot = "diagnostics"
    "#;

    #[test]
    fn a_frame_needs_more_with_each_processor_and_node() {
        let mut frame = frame::file::read(FRAME).frame.unwrap();
        assert_eq!(needed(&frame, 1), OWN + MAKING + EACH + 1 + 3);
        assert_eq!(needed(&frame, 4), OWN + MAKING + EACH + 4 + 3);
        frame.partitions.clear();
        assert_eq!(needed(&frame, 4), OWN + MAKING);
    }

    #[test]
    fn too_few_are_said_with_both_numbers() {
        assert_eq!(lack(1024, 1024), None);
        let said = lack(1023, 1464).unwrap();
        assert!(said.contains("1023") && said.contains("1464") && said.contains("LimitNOFILE"), "{said}");
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_goes() {
        let before = getrlimit(Resource::Nofile);
        let hard = before.maximum.unwrap_or(1 << 20);
        assert!(raise(hard.saturating_add(1)).is_some() || before.maximum.is_none());
        assert!(getrlimit(Resource::Nofile).current.is_none_or(|current| current >= hard));
        assert_eq!(raise(16), None);
    }
}
