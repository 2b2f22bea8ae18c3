//! The API over a real socket, the log on a real disk, the driver with a real child.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use crossbeam_channel::Receiver;
use frame::api::{Acknowledgement, DOWN, Delivery, DownRequest, EVENTS, OPENAPI, STATUS, SurveillanceStatus};
use frame::code::Code;
use frame::event::{Event, LARGEST_DELIVERY, LoggedEvent};
use frame::root::Root;
use os::http::{Client, HttpError};
use service_processor::api::{self, Reach};
use service_processor::driver::{self, Message, NotDown, Outcome, Setup};
use service_processor::log::Log;
use service_processor::store::Store;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

const LONG: Duration = Duration::from_secs(30);

struct Served {
    _directory: tempfile::TempDir,
    root: Root,
    log: Log,
    queue: crossbeam_channel::Sender<Message>,
    messages: Receiver<Message>,
    client: Client,
    end: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl Served {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::under(directory.path());
        std::fs::create_dir_all(&root.run).unwrap();
        std::fs::create_dir_all(&root.state).unwrap();
        let path = root.event_database();
        let log = Log::start(path.clone(), Store::open(&path).ok()).unwrap();
        let (queue, messages) = driver::queue();
        let router = api::router(Reach { driver: queue.clone(), log: log.clone() });
        let listener = api::bind(&root.service_processor_socket()).unwrap();
        let (end, ended) = oneshot::channel();
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(api::serve(listener, router, ended)).unwrap();
        });
        let client = Client::new(&root.service_processor_socket(), LONG);
        Self { _directory: directory, root, log, queue, messages, client, end: Some(end), server: Some(server) }
    }

    fn setup(&self, manager: &str) -> Setup {
        let text = "[frame]\nname = \"t\"\nreserved = { cpus = 0 }\n[[pool]]\nname = \"default\"\ncpus = 1\n";
        let frame = frame::file::read(text).frame.unwrap();
        Setup { root: self.root.clone(), frame, manager: PathBuf::from(manager), log: self.log.clone(), first: true }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        if let Some(server) = self.server.take() {
            server.join().unwrap();
        }
    }
}

fn events(sequences: std::ops::Range<u64>) -> Delivery {
    let event = |sequence| Event {
        incarnation: 1,
        sequence,
        ..Event::new(Code::ManagerStarted, Vec::new(), format!("number {sequence}"))
    };
    Delivery { events: sequences.map(event).collect() }
}

fn numbers(events: &[LoggedEvent]) -> Vec<u64> {
    events.iter().map(|logged| logged.event.sequence).collect()
}

fn status(error: &HttpError) -> u16 {
    match error {
        HttpError::Refused { status, .. } => *status,
        other => panic!("{other}"),
    }
}

#[test]
fn deliveries_are_taken_once_and_read_in_order() {
    let served = Served::new();
    for (delivery, taken) in [(events(1..3), 2), (events(1..4), 3)] {
        let answer: Acknowledgement = served.client.post(EVENTS, &delivery).unwrap();
        assert_eq!(answer.taken, taken);
    }
    let all: Vec<LoggedEvent> = served.client.get(EVENTS).unwrap();
    assert_eq!(numbers(&all), [1, 2, 3]);
    let rest: Vec<LoggedEvent> = served.client.get(&format!("{EVENTS}?after={}&limit=1", all[0].id)).unwrap();
    assert_eq!(numbers(&rest), [2]);
    let last: Vec<LoggedEvent> = served.client.get(&format!("{EVENTS}?last=2")).unwrap();
    assert_eq!(numbers(&last), [2, 3]);
}

#[test]
fn a_reader_that_waits_is_woken_by_the_next_event() {
    let served = Served::new();
    let client = served.client.clone();
    let reader = std::thread::spawn(move || client.get::<Vec<LoggedEvent>>(&format!("{EVENTS}?wait_ms=30000")));
    let _: Acknowledgement = served.client.post(EVENTS, &events(1..2)).unwrap();
    assert_eq!(numbers(&reader.join().unwrap().unwrap()), [1]);
    let none: Vec<LoggedEvent> = served.client.get(&format!("{EVENTS}?after=999&wait_ms=1")).unwrap();
    assert!(none.is_empty());
}

#[test]
fn wrong_requests_are_refused_with_the_reason() {
    let served = Served::new();
    let most = LARGEST_DELIVERY as u64;
    let refused = served.client.post::<_, Acknowledgement>(EVENTS, &events(1..most + 2)).unwrap_err();
    assert_eq!((status(&refused), refused.to_string().contains("at most 64")), (400, true), "{refused}");
    for body in [serde_json::json!({}), serde_json::json!({"events": [{}]}), serde_json::json!({"events": [], "x": 1})]
    {
        let refused = served.client.post::<_, Acknowledgement>(EVENTS, &body).unwrap_err();
        assert_eq!(status(&refused), 400);
    }
    for path in [format!("{EVENTS}?after=x"), format!("{EVENTS}?nonsense=1"), format!("{EVENTS}?after=1&last=1")] {
        assert_eq!(status(&served.client.get::<Vec<LoggedEvent>>(&path).unwrap_err()), 400, "{path}");
    }
    let refused = served.client.get::<serde_json::Value>("/nothing").unwrap_err();
    assert_eq!((status(&refused), refused.to_string().contains(OPENAPI)), (404, true), "{refused}");
}

#[test]
fn the_api_describes_itself() {
    let served = Served::new();
    let description: serde_json::Value = served.client.get(OPENAPI).unwrap();
    for path in [EVENTS, STATUS, DOWN] {
        assert!(description["paths"][path].is_object(), "{path} is not described");
    }
    assert!(description["components"]["schemas"]["LoggedEvent"].is_object());
}

#[test]
fn a_manager_that_does_not_come_up_ends_the_frame() {
    let served = Served::new();
    let (setup, queue, messages) = (served.setup("/bin/false"), served.queue.clone(), served.messages.clone());
    let driver = std::thread::spawn(move || driver::run(setup, queue, &messages).unwrap());
    let outcome = driver.join().unwrap();
    let Outcome::NotUp(reason) = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("exit status 1"), "{reason}");
    assert!(!served.root.surveillance_record().exists());
}

#[test]
fn a_manager_that_ends_in_order_ends_the_frame() {
    let served = Served::new();
    // It ends with status 0 at once, whatever it is asked.
    let (setup, queue, messages) = (served.setup("/bin/true"), served.queue.clone(), served.messages.clone());
    assert_eq!(driver::run(setup, queue, &messages).unwrap(), Outcome::Down);
    let store = Store::open(&served.root.event_database()).unwrap();
    let codes: Vec<Code> = store.newest(10).unwrap().iter().map(|logged| logged.event.code).collect();
    assert_eq!(codes, [Code::FrameDown]);
}

#[test]
fn requests_reach_the_driver_and_its_answers_the_client() {
    let served = Served::new();
    let client = served.client.clone();
    let asker = std::thread::spawn(move || {
        let status = client.get::<SurveillanceStatus>(STATUS);
        let down = client.post::<_, serde_json::Value>(DOWN, &DownRequest { immediate: true });
        (status, down)
    });
    let Message::Status(reply) = served.messages.recv_timeout(LONG).unwrap() else { panic!() };
    let told =
        SurveillanceStatus { pid: 1, manager: None, manager_ready: false, replaced: 2, events: 3, going_down: false };
    reply.send(told.clone()).unwrap();
    let Message::Down(request, reply) = served.messages.recv_timeout(LONG).unwrap() else { panic!() };
    assert!(request.immediate);
    reply.send(Err(NotDown::Refused("a guest objects".into()))).unwrap();
    let (status_answer, down) = asker.join().unwrap();
    assert_eq!(status_answer.unwrap(), told);
    let down = down.unwrap_err();
    assert_eq!((status(&down), down.to_string()), (409, "a guest objects".into()));
}
