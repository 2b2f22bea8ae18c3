//! Every rule both ways, on the real kernel: what is allowed goes on, what is not ends the process by `SIGSYS`.

use super::*;
use rule::Rule;
use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// The number that the filters take for the process's own; no process need have it.
const OWN: u32 = 4_190_001;
/// Numbers of system calls that are tried: more than the kernel has.
const NUMBERS: i64 = 520;
/// `uretprobe` and `uprobe`: kernels that have them let them pass every filter, since they only work on the kernel's
/// own page (Linux 6.16, kernel/seccomp.c).
const PASSED: [i64; 2] = [335, 336];
/// The bit of the x32 ABI's numbers (Linux, arch/x86/include/uapi/asm/unistd.h).
const X32: i64 = 0x4000_0000;
/// An argument that is no descriptor, no address, no length and no flag that any call takes.
const BAD: u64 = 0xffff_ffff_ffff_ff00;

/// How a child ended that installed a filter and did one thing.
fn outcome(program: &BpfProgram, act: impl FnOnce()) -> i32 {
    outcome_beside(program, act, |_| ())
}

/// As [`outcome`], with something done about the child meanwhile.
fn outcome_beside(program: &BpfProgram, act: impl FnOnce(), beside: impl FnOnce(i32)) -> i32 {
    // SAFETY: the child calls the system only, and ends by it.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the structure is read only. No memory of this test need be dumped.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) };
        let status = if seccompiler::apply_filter(program).is_ok() {
            act();
            0
        } else {
            9
        };
        // SAFETY: ends the child at once.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
    beside(child);
    let mut status = 0;
    // SAFETY: the status is this function's, and the child this thread's.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

/// How a child ended that came back from a signal, behind the filter.
fn back_from_a_signal(program: &BpfProgram) -> i32 {
    static CAME: AtomicBool = AtomicBool::new(false);
    extern "C" fn note(_: i32) {
        CAME.store(true, Ordering::SeqCst);
    }
    let handler: extern "C" fn(i32) = note;
    // SAFETY: the handler sets a flag; nothing else in this process uses the signal.
    assert_ne!(unsafe { libc::signal(libc::SIGUSR2, handler as libc::sighandler_t) }, libc::SIG_ERR);
    let (mut read, write) = std::io::pipe().unwrap();
    let wait = || {
        // SAFETY: the byte is there; the descriptor is the child's own copy.
        unsafe { libc::write(write.as_raw_fd(), b"x".as_ptr().cast(), 1) };
        while !CAME.load(Ordering::SeqCst) {
            // SAFETY: it touches nothing.
            unsafe { libc::sched_yield() };
        }
    };
    outcome_beside(program, wait, |child| {
        read.read_exact(&mut [0]).unwrap();
        // SAFETY: the child is this thread's, and nobody has waited for it.
        assert_eq!(unsafe { libc::kill(child, libc::SIGUSR2) }, 0);
    })
}

fn call(program: &BpfProgram, number: i64, arguments: [u64; 6]) -> i32 {
    outcome(program, || {
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: nothing of the child is used after it but its end; what it damages is its own copy.
        unsafe { libc::syscall(number, a, b, c, d, e, f) };
    })
}

/// Whether the filter ended the child.
fn killed(status: i32) -> bool {
    libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS
}

/// Arguments that the rule allows and the kernel refuses, one set for each alternative.
fn allowed(rule: &Rule) -> Vec<[u64; 6]> {
    let with = |places: &[(u8, u32)]| {
        let mut arguments = [BAD; 6];
        places.iter().for_each(|(place, value)| arguments[usize::from(*place)] = (*value).into());
        arguments
    };
    match rule {
        Rule::Any => vec![with(&[])],
        Rule::OneOf(argument, values) => values.iter().map(|value| with(&[(*argument, *value)])).collect(),
        Rule::Without(argument, bits) => vec![with(&[(*argument, 0)]), with(&[(*argument, !*bits)])],
        Rule::OwnSignal(signals) => {
            signals.iter().map(|signal| with(&[(0, OWN), (1, u32::MAX), (2, *signal)])).collect()
        }
    }
}

/// Arguments that the rule forbids.
fn forbidden(rule: &Rule) -> Vec<[u64; 6]> {
    let with = |places: &[(u8, u64)]| {
        let mut arguments = [0; 6];
        places.iter().for_each(|(place, value)| arguments[usize::from(*place)] = *value);
        arguments
    };
    match rule {
        Rule::Any => vec![],
        Rule::OneOf(argument, values) => {
            let near = values.iter().flat_map(|value| (0..32).map(move |bit| value ^ (1 << bit)));
            let wrong: BTreeSet<u32> = near.filter(|value| !values.contains(value)).collect();
            wrong.into_iter().map(|value| with(&[(*argument, value.into())])).collect()
        }
        Rule::Without(argument, bits) => {
            let bits = u64::from(*bits);
            vec![with(&[(*argument, bits)]), with(&[(*argument, bits | 3)]), with(&[(*argument, u64::MAX)])]
        }
        Rule::OwnSignal(signals) => {
            let (own, signal) = (u64::from(OWN), u64::from(signals[0]));
            let wrong = (0..=64).filter(|signal| !signals.contains(&(*signal as u32)));
            let strangers = [1, own + 1, u64::from(u32::MAX)].map(|process| with(&[(0, process), (2, signal)]));
            strangers.into_iter().chain(wrong.map(|signal| with(&[(0, own), (1, own), (2, signal)]))).collect()
        }
    }
}

#[test]
fn every_class_has_at_most_forty_calls_each_once_and_with_a_reason() {
    for class in Class::ALL {
        let numbers: BTreeSet<i64> = class.calls().map(|call| call.number).collect();
        assert_eq!(numbers.len(), class.calls().count(), "{}: a call is there twice", class.name());
        assert!(numbers.len() <= MOST_CALLS, "{}: {} calls", class.name(), numbers.len());
        assert!(class.calls().all(|call| !call.why.is_empty()));
    }
    assert_eq!(Class::ALL.map(|class| class.calls().count()), [34, 28, 38], "the figures of SPECIFICATION.md");
}

#[test]
fn a_call_that_is_allowed_works() {
    for class in Class::ALL {
        let program = class.filter(OWN).unwrap();
        for one in class.calls() {
            for arguments in allowed(&one.rule) {
                // Without a signal that one takes what lies on the stack for the thread's state.
                let status = if one.number == libc::SYS_rt_sigreturn {
                    back_from_a_signal(&program)
                } else {
                    call(&program, one.number, arguments)
                };
                assert!(!killed(status), "{}: {} {arguments:x?}: {status:#x}", class.name(), one.number);
            }
        }
    }
}

#[test]
fn a_call_that_is_forbidden_ends_the_process() {
    for class in Class::ALL {
        let program = class.filter(OWN).unwrap();
        let known: BTreeSet<i64> = class.calls().map(|call| call.number).collect();
        for number in (0..NUMBERS).filter(|number| !known.contains(number) && !PASSED.contains(number)) {
            assert!(killed(call(&program, number, [BAD; 6])), "{}: {number}", class.name());
        }
        for number in &known {
            assert!(killed(call(&program, number | X32, [BAD; 6])), "{}: {number} of x32", class.name());
        }
    }
}

#[test]
fn an_argument_that_is_forbidden_ends_the_process() {
    for class in Class::ALL {
        let program = class.filter(OWN).unwrap();
        for one in class.calls() {
            for arguments in forbidden(&one.rule) {
                assert!(
                    killed(call(&program, one.number, arguments)),
                    "{}: {} {arguments:x?}",
                    class.name(),
                    one.number
                );
            }
        }
    }
}

#[test]
fn the_32_bit_door_is_shut() {
    for class in Class::ALL {
        let program = class.filter(OWN).unwrap();
        let status = outcome(&program, || {
            // SAFETY: getpid of the 32-bit ABI, which touches nothing but the register that it answers in.
            unsafe { std::arch::asm!("int 0x80", inlateout("eax") 20 => _) };
        });
        // A kernel without that ABI ends the process by another signal.
        assert!(libc::WIFSIGNALED(status), "{}", class.name());
    }
}

#[test]
fn a_jailed_thread_installs_no_other_filter() {
    let program = Class::Device.filter(OWN).unwrap();
    let status = outcome(&Class::Monitor.filter(OWN).unwrap(), || {
        let _ = seccompiler::apply_filter(&program);
    });
    assert!(killed(status));
}
