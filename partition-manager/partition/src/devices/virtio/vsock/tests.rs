//! The device, driven through its queues as a guest drives it, by programs of the host on a Unix socket; and the
//! connections alone, with whatever a guest may send.

use super::connections::{Connections, Greeted, MOST_CONNECTIONS, ROOM, Received};
use super::packet::{HEADER, HOST, Header, NO_RECEIVE, NO_SEND, operation};
use super::streams::Streams;
use super::*;
use crate::devices::pci::freeze::Fault;
use crate::devices::virtio::testing::Driver;
use proptest::prelude::*;
use std::io::{BufRead, BufReader, Read, Write};
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
    let mut passed = 0;
    loop {
        let (header, data) = bench.receive();
        match header.operation {
            operation::DATA => {
                passed += data.len() as u32;
                let echo = Header { bytes: header.bytes, passed, ..answer(&request, operation::DATA) };
                bench.send(echo, &data);
            }
            operation::CREDIT => {}
            operation::SHUTDOWN => break assert_eq!(header.flags, NO_SEND),
            other => panic!("operation {other}"),
        }
    }
    bench.send(Header { flags: NO_SEND | NO_RECEIVE, passed, ..answer(&request, operation::SHUTDOWN) }, &[]);
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
fn connections_are_bounded_and_a_guest_cannot_open_one() {
    let mut connections = Connections::new(CID);
    for _ in 0..MOST_CONNECTIONS {
        assert!(connections.accept().is_some());
    }
    assert_eq!(connections.accept(), None);
    let request = Header { destination_port: 5, ..answer(&Header::default(), operation::REQUEST) };
    for _ in 0..1000 {
        assert_eq!(connections.receive(&request, &[]), Received::Nothing);
    }
    let resets = std::iter::from_fn(|| connections.due()).inspect(|one| assert_eq!(one.operation, operation::RESET));
    assert_eq!(resets.count(), 64);
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
