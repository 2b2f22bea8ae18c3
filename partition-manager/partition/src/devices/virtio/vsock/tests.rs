//! The device, driven through its queues as a guest drives it, by programs of the host on a Unix socket; and the
//! connections alone, with whatever a guest may send.

use super::connections::{Connections, Greeted, MOST_CONNECTIONS, ROOM, Received, Stage};
use super::packet::{HEADER, HOST, Header, NO_RECEIVE, NO_SEND, operation};
use super::streams::Streams;
use super::*;
use crate::devices::pci::freeze::Fault;
use crate::devices::virtio::testing::Driver;
use frame::vsock::{Answer, Call, MOST_CALLS, RECORD, SERVE};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

const CID: u32 = 9;
const PORT: u32 = 1024;
const PACKET: usize = 4096;
/// Buffers of the receiving queue, a descriptor each.
const BUFFERS: u16 = 8;

struct Bench {
    driver: Driver,
    directory: tempfile::TempDir,
    /// Where the receiving buffers are.
    buffers: Vec<u64>,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("s")).unwrap();
    let streams = Streams::new(CID, listener.into()).unwrap();
    let mut driver = Driver::new(Arc::new(Vsock::new(CID)), Box::new(streams));
    assert_eq!(driver.offered() & STREAM, STREAM);
    driver.start(STREAM);
    let buffers = (0..BUFFERS).map(|head| driver.submit(0, head, &[], &[PACKET])[0]).collect();
    Bench { driver, directory, buffers }
}

impl Bench {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.path().join("s")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// The next packet for the guest; its buffer goes back.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        let used = self.driver.wait(0);
        let bytes = self.driver.bytes(self.buffers[usize::from(used.head)], used.written as usize);
        self.driver.offer(0, used.head);
        let (header, data) = bytes.split_first_chunk::<HEADER>().unwrap();
        let header = Header::parse(header);
        assert_eq!(header.bytes as usize, data.len());
        (header, data.to_vec())
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        let packet = [&header.bytes()[..], data].concat();
        self.driver.submit(1, 0, &[&packet], &[]);
        self.driver.wait(1);
    }

    /// Sends back what comes, as far as the device has room for it, until the host's program ends.
    fn echo(&mut self, request: &Header) {
        let (mut kept, mut passed, mut ended) = (VecDeque::new(), 0u32, false);
        while !ended || !kept.is_empty() {
            let (header, data) = self.receive();
            match header.operation {
                operation::DATA => kept.extend(data),
                operation::CREDIT => {}
                operation::SHUTDOWN => {
                    assert_eq!(header.flags, NO_SEND);
                    ended = true;
                }
                other => panic!("operation {other}"),
            }
            let room = header.passed.wrapping_add(header.room).wrapping_sub(passed) as usize;
            let due: Vec<u8> = kept.drain(..room.min(kept.len())).collect();
            for data in due.chunks(PACKET) {
                passed += data.len() as u32;
                let back = Header { bytes: data.len() as u32, passed, ..answer(request, operation::DATA) };
                self.send(back, data);
            }
        }
        self.send(Header { flags: NO_SEND | NO_RECEIVE, passed, ..answer(request, operation::SHUTDOWN) }, &[]);
    }

    /// A program of the host has its stream with the guest: the request that the guest saw.
    fn open(&mut self) -> (UnixStream, Header) {
        let mut stream = self.connect();
        stream.write_all(format!("CONNECT {PORT}\n").as_bytes()).unwrap();
        let (request, _) = self.receive();
        assert_eq!(request.operation, operation::REQUEST);
        assert_eq!((request.source, request.destination, request.destination_port), (HOST, CID.into(), PORT));
        self.send(answer(&request, operation::RESPONSE), &[]);
        let mut line = String::new();
        BufReader::with_capacity(1, &stream).read_line(&mut line).unwrap();
        assert_eq!(line, format!("OK {}\n", request.source_port));
        (stream, request)
    }
}

fn answer(to: &Header, what: u16) -> Header {
    Header {
        source: CID.into(),
        destination: HOST,
        source_port: to.destination_port,
        destination_port: to.source_port,
        kind: packet::STREAM,
        operation: what,
        room: 1 << 20,
        ..Header::default()
    }
}

#[test]
fn a_program_of_the_host_has_its_bytes_echoed() {
    let mut bench = bench();
    let (stream, request) = bench.open();
    let data: Vec<u8> = (0..300_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (expected, mut writer) = (data.clone(), stream.try_clone().unwrap());
    let write = std::thread::spawn(move || {
        writer.write_all(&data).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let read = std::thread::spawn(move || {
        let mut echoed = vec![];
        (&stream).read_to_end(&mut echoed).unwrap();
        echoed
    });
    bench.echo(&request);
    write.join().unwrap();
    assert!(read.join().unwrap() == expected, "what came back is something else");
    // The end of the connection.
    while bench.receive().0.operation != operation::RESET {}
}

#[test]
fn a_port_that_nobody_listens_on_and_a_wrong_line_end_the_stream() {
    let mut bench = bench();
    let mut stream = bench.connect();
    stream.write_all(b"CONNECT 7\n").unwrap();
    let (request, _) = bench.receive();
    bench.send(answer(&request, operation::RESET), &[]);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    for line in ["CONNECT x\n", "CONNECT 4294967296\n", "HELLO\n", "CONNECT 00000000000000000000001\n"] {
        let mut stream = bench.connect();
        stream.write_all(line.as_bytes()).unwrap();
        let end = stream.read(&mut [0]);
        assert!(matches!(&end, Ok(0) | Err(_)), "{line}: {end:?}");
        assert!(!end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "{line}");
    }
}

#[test]
fn the_guest_is_sent_no_more_than_it_has_room_for() {
    let mut bench = bench();
    let mut stream = bench.connect();
    stream.write_all(b"CONNECT 1\n0123456789").unwrap();
    let (request, _) = bench.receive();
    bench.send(Header { room: 4, ..answer(&request, operation::RESPONSE) }, &[]);
    assert_eq!(bench.receive().1, b"0123");
    bench.send(Header { room: 4, passed: 1, ..answer(&request, operation::CREDIT) }, &[]);
    assert_eq!(bench.receive().1, b"4");
    bench.send(Header { room: 100, passed: 5, ..answer(&request, operation::CREDIT) }, &[]);
    assert_eq!(bench.receive().1, b"56789");
}

#[test]
fn a_guest_that_sends_more_than_there_is_room_for_is_reset_and_others_go_on() {
    let mut bench = bench();
    let (_greedy, request) = bench.open();
    let (mut other, second) = bench.open();
    // Nobody reads: the host's kernel keeps some, the device the rest.
    for _ in 0..1024 {
        bench.send(Header { bytes: 4096, ..answer(&request, operation::DATA) }, &[7; 4096]);
    }
    loop {
        let (header, _) = bench.receive();
        if header.operation == operation::RESET {
            break assert_eq!(header.source_port, request.source_port);
        }
    }
    bench.send(Header { bytes: 2, ..answer(&second, operation::DATA) }, b"hi");
    let mut read = [0; 2];
    other.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"hi");
}

#[test]
fn packets_that_contradict_themselves_freeze_the_device() {
    let mut bench = bench();
    let (mut stream, request) = bench.open();
    let lying = Header { bytes: 100, ..answer(&request, operation::DATA) };
    bench.driver.submit(1, 0, &[&lying.bytes()], &[]);
    assert!(matches!(bench.driver.wait_frozen(), Fault::Chain { queue: 1, .. }));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the stream stays");
    let mut bench = self::bench();
    bench.driver.submit(1, 0, &[&[0; HEADER - 1]], &[]);
    assert!(matches!(bench.driver.wait_frozen(), Fault::Chain { queue: 1, .. }));
}

#[test]
fn connections_are_bounded_and_silent_programs_give_way() {
    let mut connections = Connections::new(CID);
    for slot in 0..MOST_CONNECTIONS {
        assert_eq!(connections.accept(), Some(slot));
    }
    assert!(connections.has_room());
    // All are silent: the first gives way, then the second.
    assert_eq!((connections.accept(), connections.accept()), (Some(0), Some(1)));
    for slot in 0..MOST_CONNECTIONS {
        let said = b"CONNECT 5\n".iter().map(|byte| connections.greet(slot, *byte)).last();
        assert_eq!(said, Some(Greeted::Asked));
    }
    assert!(!connections.has_room());
    assert_eq!(connections.accept(), None);
    let request = Header { destination_port: 5, ..answer(&Header::default(), operation::REQUEST) };
    for _ in 0..1000 {
        assert_eq!(connections.receive(&request, &[]), Received::Nothing);
    }
    let due = std::iter::from_fn(|| connections.due()).filter(|one| one.operation == operation::RESET);
    assert_eq!(due.count(), 64);
}

#[test]
fn a_guest_calls_the_host_as_long_as_somebody_connects_for_it() {
    let mut connections = Connections::new(CID);
    let call =
        |port| Header { source_port: port, destination_port: 5, ..answer(&Header::default(), operation::REQUEST) };
    let due = |connections: &mut Connections| connections.due().map(|one| (one.operation, one.destination_port));
    assert_eq!(connections.receive(&call(1), &[]), Received::Nothing);
    assert_eq!(due(&mut connections), Some((operation::RESET, 1)));
    connections.serve(true);
    let calls: Vec<(usize, Call)> = (1..=MOST_CALLS as u32)
        .map(|port| match connections.receive(&call(port), &[]) {
            Received::Called(slot, call) => (slot, call),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(calls.iter().all(|(_, call)| call.port == 5));
    // One too many, and one twice, which ends that one.
    assert_eq!(connections.receive(&call(99), &[]), Received::Nothing);
    assert_eq!(due(&mut connections), Some((operation::RESET, 99)));
    assert_eq!(connections.receive(&call(2), &[]), Received::Gone(1));
    assert_eq!(due(&mut connections), Some((operation::RESET, 2)));
    assert_eq!(connections.connected(calls[1].1.id), None);
    assert_eq!(connections.connected(calls[0].1.id), Some(0));
    assert_eq!(connections.connected(calls[0].1.id), None);
    assert_eq!(due(&mut connections), Some((operation::RESPONSE, 1)));
    // Nobody is left: what waits is refused, what stands stays.
    connections.serve(false);
    let refused: Vec<_> = std::iter::from_fn(|| due(&mut connections)).collect();
    assert_eq!(refused.len(), MOST_CALLS - 2);
    assert!(refused.iter().all(|(what, _)| *what == operation::RESET));
    assert!(connections.get(0).is_some_and(|one| one.stage() == Stage::Open));
}

#[test]
fn a_call_is_connected_or_refused() {
    let mut bench = bench();
    let mut broker = bench.connect();
    broker.write_all(SERVE).unwrap();
    let mut call = [0; RECORD];
    let called =
        |port| Header { source_port: 50, destination_port: port, ..answer(&Header::default(), operation::REQUEST) };
    // Who came before is heard before.
    let _other = bench.open();
    bench.send(Header { room: 1 << 20, ..called(7) }, &[]);
    broker.read_exact(&mut call).unwrap();
    let asked = Call::parse(call);
    assert_eq!(asked.port, 7);
    broker.write_all(&Answer { id: asked.id, error: 111 }.bytes()).unwrap();
    let (header, _) = bench.receive();
    assert_eq!((header.operation, header.source_port, header.destination_port), (operation::RESET, 7, 50));
    bench.send(called(8), &[]);
    broker.read_exact(&mut call).unwrap();
    let (mut program, socket) = UnixStream::pair().unwrap();
    let granted = Answer { id: Call::parse(call).id, error: 0 }.bytes();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = rustix::net::SendAncillaryBuffer::new(&mut space);
    let sockets = [socket.as_fd()];
    beside.push(rustix::net::SendAncillaryMessage::ScmRights(&sockets));
    let flags = rustix::net::SendFlags::empty();
    rustix::net::sendmsg(&broker, &[std::io::IoSlice::new(&granted)], &mut beside, flags).unwrap();
    drop(socket);
    program.write_all(b"what the program says first").unwrap();
    let (response, _) = bench.receive();
    assert_eq!(response.operation, operation::RESPONSE);
    assert_eq!(bench.receive().1, b"what the program says first");
    bench.send(Header { bytes: 2, ..answer(&response, operation::DATA) }, b"hi");
    let mut read = [0; 2];
    program.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"hi");
    // Without a broker calls are refused, and the stream goes on.
    drop(broker);
    loop {
        bench.send(called(9), &[]);
        let (header, _) = bench.receive();
        if header.operation == operation::RESET {
            break;
        }
    }
    program.write_all(b"more").unwrap();
    assert_eq!(bench.receive().1, b"more");
}

#[test]
fn a_program_that_said_something_and_went_is_heard() {
    let mut bench = bench();
    let (mut stream, request) = bench.open();
    stream.write_all(b"last words").unwrap();
    drop(stream);
    // What the guest says meanwhile reaches nobody.
    bench.send(Header { bytes: 2, ..answer(&request, operation::DATA) }, b"hi");
    bench.send(Header { bytes: 2, ..answer(&request, operation::DATA) }, b"hi");
    let (header, data) = bench.receive();
    assert_eq!((header.operation, data.as_slice()), (operation::DATA, b"last words".as_slice()));
}

proptest! {
    #[test]
    fn a_header_is_read_as_it_is_written(bytes in any::<[u8; 32]>(), more in any::<[u8; 12]>()) {
        let mut all = [0; HEADER];
        all.iter_mut().zip(bytes.into_iter().chain(more)).for_each(|(to, from)| *to = from);
        prop_assert_eq!(Header::parse(&all).bytes(), all);
    }

    #[test]
    fn whatever_the_guest_sends_it_gets_no_more_than_its_room_and_keeps_no_more_than_ours(
        packets in proptest::collection::vec(
            (0u16..9, 0usize..3, 0usize..40_000, any::<u32>(), 0u32..100_000, 0u32..4, 0usize..70_000), 1..80)
    ) {
        let mut connections = Connections::new(CID);
        let mut asked = vec![];
        for _ in 0..3 {
            let slot = connections.accept().unwrap();
            for byte in b"CONNECT 1024" {
                prop_assert_eq!(connections.greet(slot, *byte), Greeted::More);
            }
            prop_assert_eq!(connections.greet(slot, b'\n'), Greeted::Asked);
            asked.push(connections.due().unwrap());
        }
        let zeros = vec![0; 40_000];
        for (what, which, bytes, passed, room, flags, take) in packets {
            let header =
                Header { bytes: bytes as u32, room, passed: passed % 5_000, flags, ..answer(&asked[which], what) };
            connections.receive(&header, &zeros[..bytes]);
            for slot in 0..3 {
                let Some(connection) = connections.get(slot) else { continue };
                let (a, b) = connection.kept();
                let kept = a.len() + b.len();
                prop_assert!(kept <= ROOM as usize);
                connection.took(take);
                let (a, b) = connection.kept();
                prop_assert_eq!(a.len() + b.len(), kept.saturating_sub(take));
            }
            if let Some((slot, credit)) = connections.next_sender(|_| true) {
                prop_assert!(credit > 0);
                connections.send(slot, credit).unwrap();
                prop_assert_eq!(connections.get(slot).unwrap().credit(), 0);
            }
            prop_assert!(std::iter::from_fn(|| connections.due()).count() <= 64 + 3 * MOST_CONNECTIONS);
        }
    }
}
