//! The four binaries on this machine's own KVM: what the README and the specification promise.

mod audit;
mod change;
mod claims;
mod death;
mod demo;
mod devices;
mod examples;
mod exit_status;
mod jail;
mod leftovers;
mod lifecycle;
mod mistakes;
mod network;
mod plan;
mod rounds;
mod scale;
mod service;
mod shutdown;
mod steering;
mod terminal;
mod vsock;
mod watchdog;

use anyhow::Result;
use end_to_end::host;
use libtest_mimic::{Arguments, Failed, Trial};

/// A test by its name, and what it needs of the machine.
type Test = (&'static str, fn() -> Result<()>, fn() -> Option<String>);

fn nothing() -> Option<String> {
    None
}

fn kvm_and_switches() -> Option<String> {
    kvm_and_root().or_else(network::lacks)
}

fn kvm_root_and_cpus() -> Option<String> {
    kvm_and_root().or_else(audit::lacks)
}

fn kvm_and_root() -> Option<String> {
    host::lacks_kvm().or_else(host::lacks_root)
}

const TESTS: &[Test] = &[
    ("demo::two_partitions_run_and_ctrl_c_ends_them_in_order", demo::ctrl_c, host::lacks_kvm),
    ("demo::the_verbs_work_by_hand", demo::verbs, host::lacks_kvm),
    ("demo::a_terminal_shows_a_live_view", demo::terminal, host::lacks_kvm),
    ("audit::each_breach_of_the_division_is_named", audit::breaches, kvm_root_and_cpus),
    ("steering::the_hosts_interrupts_leave_a_dedicated_cpu_and_come_back", steering::moved, kvm_root_and_cpus),
    ("change::a_changed_file_is_applied_to_what_runs", change::applied, host::lacks_kvm),
    ("change::values_are_set_within_their_bounds_and_stay", change::set, host::lacks_kvm),
    ("change::a_manager_that_is_killed_while_it_changes_is_finished_by_the_next", change::killed, host::lacks_kvm),
    ("lifecycle::verbs_are_idempotent", lifecycle::idempotent, host::lacks_kvm),
    ("lifecycle::a_guest_powers_itself_off", lifecycle::power_off, host::lacks_kvm),
    ("lifecycle::a_guest_restarts_and_its_console_history_stays", lifecycle::restart, host::lacks_kvm),
    ("lifecycle::a_partition_has_the_processors_it_was_given", lifecycle::processors, host::lacks_kvm),
    ("lifecycle::one_console_session_at_a_time", lifecycle::one_session, host::lacks_kvm),
    ("lifecycle::exit_statuses_follow_the_contract", lifecycle::statuses, host::lacks_kvm),
    ("exit_status::it_is_kept_and_shown_until_the_next_start", exit_status::kept, host::lacks_kvm),
    ("service::a_device_is_serviced_by_its_name", service::by_name, host::lacks_kvm),
    ("shutdown::a_guest_is_asked_and_agrees", shutdown::asked, host::lacks_kvm),
    ("shutdown::a_guest_that_denies_keeps_running", shutdown::denied, host::lacks_kvm),
    ("shutdown::a_hung_guest_is_brought_down_by_the_ladder", shutdown::hung, host::lacks_kvm),
    ("death::a_killed_partition_hurts_nobody_else", death::partition_killed, host::lacks_kvm),
    ("death::a_crashed_guest_leaves_its_registers", death::guest_crashed, host::lacks_kvm),
    ("death::no_beat_is_lost_when_the_manager_is_killed", death::manager_killed, host::lacks_kvm),
    ("death::no_beat_is_lost_when_the_manager_is_stopped", death::manager_stopped, host::lacks_kvm),
    ("death::no_beat_is_lost_when_the_service_processor_is_killed", death::service_processor_killed, host::lacks_kvm),
    ("death::no_beat_is_lost_when_the_service_processor_is_stopped", death::service_processor_stopped, host::lacks_kvm),
    ("death::no_beat_is_lost_when_both_are_killed", death::both_killed, host::lacks_kvm),
    ("death::no_beat_is_lost_when_both_are_stopped", death::both_stopped, host::lacks_kvm),
    ("death::a_manager_that_is_told_to_end_is_replaced", death::manager_terminated, host::lacks_kvm),
    ("death::nothing_is_left_of_a_frame_that_was_killed_whole", death::all_killed, host::lacks_kvm),
    ("death::a_frame_whose_supervisor_was_killed_is_taken_up_again", death::supervisor_killed, host::lacks_kvm),
    ("terminal::the_second_terminal_echoes_and_survives_the_manager", terminal::echoes, host::lacks_kvm),
    ("vsock::streams_go_both_ways_and_survive_the_manager", vsock::both_ways, host::lacks_kvm),
    ("vsock::a_driver_that_misbehaves_freezes_its_own_device", vsock::misdriven, host::lacks_kvm),
    ("network::frames_reach_their_own_vlan_and_no_other", network::frames, kvm_and_switches),
    ("devices::what_a_guest_writes_is_in_the_image", devices::written, host::lacks_kvm),
    ("devices::interrupts_taken_are_interrupts_delivered", devices::counted, host::lacks_kvm),
    ("devices::interrupts_are_timed_where_their_acknowledgement_is_seen", devices::timed, host::lacks_kvm),
    ("devices::a_driver_freezes_its_own_device_only", devices::frozen, host::lacks_kvm),
    ("devices::a_storm_of_one_source_is_quarantined_alone", devices::stormed, host::lacks_kvm),
    ("watchdog::a_guest_that_hangs_is_restarted_once", watchdog::restarted, host::lacks_kvm),
    ("watchdog::a_guest_that_hangs_is_in_error_where_the_frame_says_so", watchdog::error, host::lacks_kvm),
    ("watchdog::a_process_that_was_stopped_has_not_hung", watchdog::stopped, host::lacks_kvm),
    ("watchdog::a_guest_that_starves_has_not_hung", watchdog::starved, kvm_and_root),
    ("claims::two_frames_may_not_use_one_cpu", claims::one_frame_each, kvm_and_root),
    ("claims::two_frames_share_when_both_say_so", claims::shared, kvm_and_root),
    ("claims::a_claim_lasts_as_long_as_a_partition", claims::outlives_the_daemons, kvm_and_root),
    ("plan::a_plan_is_drawn_with_and_without_colours", plan::drawn, nothing),
    ("plan::a_plan_is_drawn_as_svg", plan::document, nothing),
    ("plan::a_plan_for_another_machine", plan::elsewhere, nothing),
    ("plan::a_plan_keeps_what_a_running_frame_owns", plan::running, host::lacks_kvm),
    ("examples::consolidation_runs_fifty_tenants", examples::consolidation, host::lacks_kvm),
    ("examples::fault_injection_leaves_the_witness_alone", examples::fault_injection, host::lacks_kvm),
    ("examples::linux_names_its_files_and_runs", examples::linux, host::lacks_kvm),
    ("examples::real_time_has_whole_cores_and_huge_pages_on_two_sockets", examples::real_time_planned, nothing),
    ("examples::real_time_runs", examples::real_time_runs, kvm_and_cpus),
    ("rounds::a_manager_killed_at_any_moment_and_at_each_step_loses_nothing", rounds::killed, host::lacks_kvm),
    ("leftovers::a_socket_is_removed_and_said", leftovers::sockets, host::lacks_kvm),
    ("leftovers::a_cgroup_is_removed_and_said", leftovers::cgroups, kvm_and_root),
    ("leftovers::a_process_is_ended_and_said", leftovers::processes, host::lacks_kvm),
    ("leftovers::a_damaged_journal_ends_no_partition", leftovers::damaged, host::lacks_kvm),
    ("leftovers::a_journal_of_another_boot_ends_no_partition", leftovers::of_another_boot, host::lacks_kvm),
    ("leftovers::a_full_run_directory_ends_nothing_and_loses_no_event", leftovers::full, kvm_and_root),
    ("leftovers::a_frame_that_was_killed_whole_comes_up_again", leftovers::all, host::lacks_kvm),
    ("mistakes::three_mistakes_are_all_reported", mistakes::three, nothing),
    ("mistakes::a_missing_kernel_is_refused", mistakes::missing_kernel, nothing),
    ("mistakes::a_kernel_cut_short_is_refused", mistakes::cut_short, nothing),
    ("mistakes::sixteen_exabytes_are_refused", mistakes::exabytes, nothing),
    ("mistakes::a_kvm_that_is_absent_is_said", mistakes::kvm_absent, host::lacks_root),
    ("mistakes::a_kvm_that_is_not_permitted_is_said", mistakes::kvm_not_permitted, kvm_and_root),
    ("jail::a_thread_that_is_taken_over_ends_its_process_by_any_other_call", jail::taken_over, kvm_and_root),
    ("jail::a_program_in_the_place_of_a_partition_gets_nowhere", jail::captured, kvm_and_root),
    ("mistakes::others_reach_nothing_of_a_frame", mistakes::others, host::lacks_kvm),
    ("mistakes::a_directory_that_others_can_change_is_refused", mistakes::open_directory, host::lacks_kvm),
    ("scale::two_hundred_partitions_run_and_none_makes_the_next_slower", scale::two_hundred, host::lacks_kvm),
    ("scale::a_thousand_partitions_are_listed_at_once", scale::a_thousand_listed, host::lacks_kvm),
];

fn main() {
    let arguments = Arguments::from_args();
    let trials = TESTS.iter().map(|&(name, test, lacks)| {
        let lack = lacks();
        let trial = Trial::test(name, move || test().map_err(|error| Failed::from(format!("{error:#}"))));
        match lack {
            Some(reason) => {
                eprintln!("skipped {name}: {reason}");
                trial.with_ignored_flag(true)
            }
            None => trial,
        }
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn kvm_and_cpus() -> Option<String> {
    host::lacks_kvm().or_else(examples::lacks_cpus)
}

/// Two partitions of the built-in payload on shared processors.
const TWO: &str = r#"
[frame]
name = "@NAME@"
memory_block = "2MiB"
reserved = { cpus = 0, memory = "64MiB" }

[[pool]]
name = "default"
cpus = 1

[[partition]]
name = "alpha"
processors = { mode = "shared", pool = "default", desired = 1, units = { minimum = 0.1, desired = 0.4, maximum = 1.0 }, sharing = "uncapped", weight = 128 }
memory = { desired = "16MiB" }
boot = "diagnostics"
shutdown = { ask = "2s", button = "2s", nmi = "2s" }

[[partition]]
name = "beta"
processors = { mode = "shared", pool = "default", desired = 1, units = { minimum = 0.1, desired = 0.4, maximum = 1.0 }, sharing = "uncapped", weight = 128 }
memory = { desired = "16MiB" }
boot = "diagnostics"
shutdown = { ask = "2s", button = "2s", nmi = "2s" }
"#;
