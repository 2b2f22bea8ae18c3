//! Every target with seeded random bytes: what coverage-guided fuzzing does for hours, for a moment.

/// Runs of each target.
const RUNS: u64 = 20_000;
/// Most bytes of a run.
const LONGEST: usize = 300;

/// Steele, Lea and Flood's SplitMix64: seeded, so that a failure comes again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }
}

fn run(target: fn(&[u8])) {
    let mut random = Random(1);
    let mut bytes = Vec::with_capacity(LONGEST + 8);
    for _ in 0..RUNS {
        bytes.clear();
        let length = random.next() as usize % LONGEST;
        // Small numbers reach more than large ones: half of the runs have few bits set.
        let mask = if random.next() & 1 == 0 { u64::MAX } else { random.next() & random.next() };
        while bytes.len() < length {
            bytes.extend((random.next() & mask).to_le_bytes());
        }
        bytes.truncate(length);
        target(&bytes);
    }
}

#[test]
fn disk_queues_survive() {
    run(fuzz_targets::disk_queue);
}

#[test]
fn entropy_queues_survive() {
    run(fuzz_targets::entropy_queue);
}

#[test]
fn network_queues_survive() {
    run(fuzz_targets::network_queue);
}

#[test]
fn socket_queues_survive() {
    run(fuzz_targets::socket_queues);
}

#[test]
fn console_queues_survive() {
    run(fuzz_targets::console_queues);
}

#[test]
fn configuration_space_survives() {
    run(fuzz_targets::configuration);
}

#[test]
fn msix_tables_survive() {
    run(fuzz_targets::msix_table);
}

#[test]
fn local_apics_survive() {
    run(fuzz_targets::local_apic);
}

#[test]
fn io_apics_survive() {
    run(fuzz_targets::io_apic);
}

#[test]
fn watchdogs_survive() {
    run(fuzz_targets::watchdog);
}
