//! The device, driven through its queues as a guest drives it, by programs of the host on Unix sockets; and what it
//! tells of its ports alone, whatever a guest says.

use super::control::{Control, MESSAGE, Message, event};
use super::history::KEPT;
use super::ports::Ports;
use super::*;
use crate::devices::pci::freeze::Fault;
use crate::devices::virtio::testing::Driver;
use frame::name::Name;
use proptest::prelude::*;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of each of the guest's buffers, and how many each queue has.
const BUFFER: usize = 512;
const BUFFERS: u16 = 8;
/// The ports: the terminal and one more.
const TERMINAL: usize = 0;
const AGENT: usize = 1;

struct Bench {
    driver: Driver,
    directory: tempfile::TempDir,
    /// Where the buffers of each queue for receiving are.
    buffers: Vec<Vec<u64>>,
}

fn names() -> Vec<Name> {
    ["hvc0", "agent"].map(|name| Name::new(name).unwrap()).to_vec()
}

/// The device, with a driver that knows of several ports or does not.
fn bench(features: u64) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let listener = |name: &Name| UnixListener::bind(directory.path().join(name.as_str())).unwrap().into();
    let ports = Ports::new(&names(), names().iter().map(listener).collect()).unwrap();
    let driver = Driver::new(Arc::new(Console::new(2)), Box::new(ports));
    let mut bench = Bench { driver, directory, buffers: vec![vec![]; 6] };
    assert_eq!(bench.driver.offered() & MULTIPORT, MULTIPORT);
    bench.start(features);
    bench
}

impl Bench {
    fn start(&mut self, features: u64) {
        self.driver.start(features);
        for role in [Role::Give(TERMINAL), Role::Tell, Role::Give(AGENT)] {
            let queue = role.queue();
            self.buffers[queue] = (0..BUFFERS).map(|head| self.driver.submit(queue, head, &[], &[BUFFER])[0]).collect();
        }
    }

    fn connect(&self, port: &str) -> UnixStream {
        let stream = UnixStream::connect(self.directory.path().join(port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// What came to the guest next; its buffer goes back.
    fn receive(&mut self, role: Role) -> Vec<u8> {
        let queue = role.queue();
        let used = self.driver.wait(queue);
        let bytes = self.driver.bytes(self.buffers[queue][usize::from(used.head)], used.written as usize);
        self.driver.offer(queue, used.head);
        bytes
    }

    fn write(&mut self, port: usize, bytes: &[u8]) {
        self.driver.submit(Role::Take(port).queue(), 0, &[bytes], &[]);
        self.driver.wait(Role::Take(port).queue());
    }

    fn say(&mut self, port: u32, event: u16, value: u16) {
        self.driver.submit(Role::Hear.queue(), 0, &[&Message { port, event, value }.bytes()], &[]);
        self.driver.wait(Role::Hear.queue());
    }

    fn told(&mut self) -> (Message, String) {
        let bytes = self.receive(Role::Tell);
        let (message, name) = bytes.split_first_chunk::<MESSAGE>().unwrap();
        (Message::parse(*message), String::from_utf8(name.to_vec()).unwrap())
    }

    /// Does what Linux does: all ports are known and ready, and those that `open` has are open.
    fn greet(&mut self, open: &[u32]) {
        self.say(u32::MAX, event::DEVICE_READY, 1);
        for port in 0..2 {
            assert_eq!(self.told(), (Message { port, event: event::PORT_ADD, value: 1 }, String::new()));
        }
        self.say(0, event::PORT_READY, 1);
        assert_eq!(self.told(), (Message { port: 0, event: event::CONSOLE_PORT, value: 1 }, String::new()));
        assert_eq!(self.told(), (Message { port: 0, event: event::PORT_NAME, value: 1 }, "hvc0".into()));
        assert_eq!(self.told(), (Message { port: 0, event: event::PORT_OPEN, value: 1 }, String::new()));
        self.say(1, event::PORT_READY, 1);
        assert_eq!(self.told(), (Message { port: 1, event: event::PORT_NAME, value: 1 }, "agent".into()));
        assert_eq!(self.told().0.event, event::PORT_OPEN);
        open.iter().for_each(|port| self.say(*port, event::PORT_OPEN, 1));
    }
}

fn expect(stream: &mut UnixStream, text: &[u8]) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert!(bytes == text, "{:?}", String::from_utf8_lossy(&bytes));
}

#[test]
fn queues_and_their_roles_are_of_the_standard() {
    for queue in 0..32 {
        assert_eq!(Role::of(queue).queue(), queue);
    }
    assert_eq!((Role::of(4), Role::of(5)), (Role::Give(1), Role::Take(1)));
    let console = Console::new(8);
    let mut most = [0; 4];
    console.read_config(4, &mut most);
    assert_eq!((u32::from_le_bytes(most), console.queues().len()), (8, 18));
}

#[test]
fn a_driver_that_knows_of_one_port_has_the_terminal() {
    let mut bench = bench(0);
    bench.write(TERMINAL, b"before anybody came\n");
    let mut stream = bench.connect("hvc0");
    expect(&mut stream, b"before anybody came\n");
    bench.write(TERMINAL, b"and after\n");
    expect(&mut stream, b"and after\n");
    stream.write_all(b"typed").unwrap();
    assert_eq!(bench.receive(Role::Give(TERMINAL)), b"typed");
}

#[test]
fn the_terminal_waits_for_nobody_and_keeps_the_end() {
    let mut bench = bench(0);
    let mut silent = bench.connect("hvc0");
    silent.write_all(b"x").unwrap();
    assert_eq!(bench.receive(Role::Give(TERMINAL)), b"x");
    let line = |number: u32| format!("{number:>15}\n").into_bytes();
    let room = bench.driver.buffer(0);
    for number in 0..40_000 / 64 {
        let lines: Vec<u8> = (0..64).flat_map(|at| line(number * 64 + at)).collect();
        bench.driver.submit(1, 0, &[&lines], &[]);
        bench.driver.wait(1);
        bench.driver.reuse_from(room);
    }
    // One that comes now takes the terminal over, and reads what is kept.
    let mut reader = bench.connect("hvc0");
    let mut kept = vec![0; KEPT];
    reader.read_exact(&mut kept).unwrap();
    assert!(kept.ends_with(&line(39_999)), "{:?}", String::from_utf8_lossy(&kept[KEPT - 64..]));
    let mut rest = vec![];
    silent.read_to_end(&mut rest).unwrap();
    assert!(rest.starts_with(&line(0)) && rest.len() < 40_000 * 16);
}

#[test]
fn a_port_is_named_opened_and_told_of_programs() {
    let mut bench = bench(MULTIPORT);
    bench.greet(&[0, 1]);
    let mut stream = bench.connect("agent");
    assert_eq!(bench.told().0, Message { port: 1, event: event::PORT_OPEN, value: 1 });
    stream.write_all(b"question").unwrap();
    assert_eq!(bench.receive(Role::Give(AGENT)), b"question");
    bench.write(AGENT, b"answer");
    expect(&mut stream, b"answer");
    // What it said last is heard though it is gone.
    stream.write_all(b"farewell").unwrap();
    drop(stream);
    assert_eq!(bench.receive(Role::Give(AGENT)), b"farewell");
    assert_eq!(bench.told().0, Message { port: 1, event: event::PORT_OPEN, value: 0 });
    // Nobody is there: what is written goes nowhere, and nobody waits.
    bench.write(AGENT, b"into the void");
    let mut stream = bench.connect("agent");
    assert_eq!(bench.told().0, Message { port: 1, event: event::PORT_OPEN, value: 1 });
    bench.write(AGENT, b"again");
    expect(&mut stream, b"again");
}

#[test]
fn nothing_is_given_to_a_port_that_the_guest_has_not_opened() {
    let mut bench = bench(MULTIPORT);
    bench.greet(&[]);
    let mut stream = bench.connect("agent");
    assert_eq!(bench.told().0.event, event::PORT_OPEN);
    stream.write_all(b"early").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    bench.write(AGENT, b"nothing came yet");
    expect(&mut stream, b"nothing came yet");
    bench.say(1, event::PORT_OPEN, 1);
    assert_eq!(bench.receive(Role::Give(AGENT)), b"early");
    // It ended one way only.
    bench.write(AGENT, b"heard");
    expect(&mut stream, b"heard");
}

#[test]
fn a_port_whose_program_does_not_read_holds_the_guest_up_and_no_other_port() {
    let mut bench = bench(MULTIPORT);
    bench.greet(&[0, 1]);
    let mut stream = bench.connect("agent");
    assert_eq!(bench.told().0.value, 1);
    let data: Vec<u8> = (0..2u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    bench.driver.submit(Role::Take(AGENT).queue(), 0, &[&data], &[]);
    bench.write(TERMINAL, b"meanwhile\n");
    let mut terminal = bench.connect("hvc0");
    expect(&mut terminal, b"meanwhile\n");
    expect(&mut stream, &data);
    bench.driver.wait(Role::Take(AGENT).queue());
}

#[test]
fn programs_stay_over_a_reset_and_hear_the_next_driver() {
    let mut bench = bench(MULTIPORT);
    bench.greet(&[0, 1]);
    let mut stream = bench.connect("agent");
    assert_eq!(bench.told().0.value, 1);
    bench.driver.reset();
    bench.start(MULTIPORT);
    bench.greet(&[0, 1]);
    bench.write(AGENT, b"after the reset");
    expect(&mut stream, b"after the reset");
}

#[test]
fn malformed_messages_and_buffers_freeze_the_device() {
    let mut short = bench(MULTIPORT);
    short.driver.submit(Role::Hear.queue(), 0, &[&[0; MESSAGE - 1]], &[]);
    assert!(matches!(short.driver.wait_frozen(), Fault::Chain { queue: 3, .. }));
    let mut small = bench(MULTIPORT);
    small.driver.reset();
    small.driver.start(MULTIPORT);
    small.driver.submit(Role::Tell.queue(), 0, &[], &[MESSAGE - 1]);
    small.driver.submit(Role::Hear.queue(), 0, &[&Message { port: 0, event: 0, value: 1 }.bytes()], &[]);
    assert!(matches!(small.driver.wait_frozen(), Fault::Chain { queue: 2, .. }));
}

#[test]
fn a_device_without_sockets_that_listen_is_refused() {
    let (one, _other) = UnixStream::pair().unwrap();
    assert!(Ports::new(&names()[..1], vec![one.into()]).is_err());
}

proptest! {
    #[test]
    fn nothing_piles_up_whatever_the_driver_says(
        said in proptest::collection::vec((0u32..4, 0u16..9, 0u16..3, 0usize..4, any::<bool>()), 0..200)
    ) {
        let mut control = Control::new(&names());
        let mut here = false;
        for (port, event, value, program, comes) in said {
            control.hear(Message { port, event, value });
            if program == AGENT {
                here = comes;
            }
            control.set_here(program, comes);
        }
        // Four of each port, at most; the last that is told of a port is how it is.
        let mut told = vec![];
        while let Some((message, name)) = control.due() {
            prop_assert!(message.port < 2 && name.len() <= 5);
            told.push(message);
            control.told(message);
            prop_assert!(told.len() <= 8, "{told:?}");
        }
        for message in told.iter().filter(|message| message.event == event::PORT_OPEN) {
            prop_assert_eq!(message.value, u16::from(message.port == 0 || here));
        }
    }
}
