//! The flight record of the emulated machine: what KVM did before a guest took a triple fault.
//!
//! `host-init.sh` traces KVM's exits, injections and nested page faults, and lets the exit of a triple fault
//! (SVM: "shutdown") stop the trace. Kernel, Documentation/trace/ftrace.rst and arch/x86/kvm/trace.h.

/// A command for the testbed's shell: prints the record's end, or fails if no triple fault stopped it.
pub const READ: &str = "cd /sys/kernel/tracing && [ \"$(cat tracing_on)\" = 0 ] && tail -n 60 trace";

/// A record with fewer entries of the virtual processor before the triple fault says too little.
const FEWEST: usize = 10;
/// Type of an event in SVM's EXITINTINFO, and the type of a software interrupt (AMD APM, volume 2, 15.20).
const TYPE: u32 = 7 << 8;
const SOFTWARE: u32 = 4 << 8;

/// Whether a triple fault came to a guest that was left alone: KVM had injected nothing, and the guest had not
/// asked for it with a software interrupt, as Linux does to restart a machine.
///
/// This is what an emulator's fault looks like. A partition process touches a running guest by interrupts and
/// by answers to its accesses only; what it does wrong before the guest runs, it does every time.
#[must_use]
pub fn came_of_itself(record: &str) -> bool {
    let lines: Vec<&str> = record.lines().collect();
    let fault = |line: &&str| line.contains("kvm_exit:") && line.contains("reason shutdown");
    let Some((last, before)) = lines.iter().rposition(fault).and_then(|at| lines.get(..=at)?.split_last()) else {
        return false;
    };
    // The first column is the thread: a virtual processor's name is the same in every partition, its number not.
    let thread = last.split_whitespace().next();
    let before: Vec<_> = before.iter().filter(|line| line.split_whitespace().next() == thread).collect();
    let asked = field(last, "intr_info").is_none_or(|info| info & TYPE == SOFTWARE);
    before.len() >= FEWEST && !asked && !before.iter().any(|line| line.contains("kvm_inj_"))
}

/// A hexadecimal field of a trace entry.
fn field(line: &str, name: &str) -> Option<u32> {
    let mut words = line.split_whitespace().skip_while(|word| *word != name);
    u32::from_str_radix(words.nth(1)?.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IO: &str = "  vcpu0-242  [000] .....  33.057330: kvm_exit: vcpu 0 reason io rip 0xffffffffbd2c2276 info1 0x0 info2 0x0 intr_info 0x00000000 error_code 0x00000000\n";

    fn shutdown(info: &str) -> String {
        format!(
            "  vcpu0-242  [000] .....  33.1: kvm_exit: vcpu 0 reason shutdown rip 0xf info1 0x0 info2 0x0 intr_info {info} error_code 0x0\n"
        )
    }

    #[test]
    fn a_guest_that_was_left_alone() {
        assert!(came_of_itself(&(IO.repeat(20) + &shutdown("0x80000308"))));
        assert!(came_of_itself(&(IO.repeat(20) + &shutdown("0x00000000") + IO)), "entries after it do not matter");
    }

    #[test]
    fn a_guest_that_asks_for_it_is_told_apart() {
        assert!(!came_of_itself(&(IO.repeat(20) + &shutdown("0x80000403"))));
    }

    #[test]
    fn an_injection_into_this_guest_makes_it_doubtful() {
        let injected = |thread| format!("  {thread}  [000] .....  33.0: kvm_inj_virq: IRQ 0xec\n");
        assert!(!came_of_itself(&(IO.repeat(20) + &injected("vcpu0-242") + IO + &shutdown("0x00000000"))));
        assert!(came_of_itself(&(IO.repeat(20) + &injected("vcpu0-311") + IO + &shutdown("0x00000000"))));
    }

    #[test]
    fn a_record_that_says_too_little_is_doubtful() {
        assert!(!came_of_itself(""));
        assert!(!came_of_itself(&IO.repeat(20)));
        assert!(!came_of_itself(&(IO.repeat(FEWEST - 1) + &shutdown("0x00000000"))));
        assert!(!came_of_itself(&(IO.repeat(20) + "vcpu0-242 kvm_exit: vcpu 0 reason shutdown rip 0xf\n")));
    }
}
