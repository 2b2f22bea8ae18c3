//! One thread that waits for descriptors to become readable and says so in the queue.
//!
//! Each watch fires once and is armed again by the driver when it has looked: so the queue holds at most
//! one message for each descriptor, whatever the other side does.

use crate::message::Message;
use crossbeam_channel::Sender;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Names one watch for good: tokens are not used twice.
pub type Token = u64;

/// The watches of the driver.
#[derive(Debug)]
pub struct Poller {
    epoll: Arc<OwnedFd>,
    next: Token,
}

const ONCE: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ONESHOT);

impl Poller {
    /// Starts the thread. It ends when nobody takes from the queue any more.
    ///
    /// # Errors
    /// When the host gives no epoll instance or no thread.
    pub fn start(queue: Sender<Message>) -> io::Result<Self> {
        let epoll = Arc::new(epoll::create(CreateFlags::CLOEXEC)?);
        let waiting = Arc::clone(&epoll);
        std::thread::Builder::new().name("poller".into()).spawn(move || {
            let mut events = [MaybeUninit::<epoll::Event>::uninit(); 64];
            loop {
                let ready = match epoll::wait(&waiting, &mut events, None) {
                    Ok((ready, _)) => ready,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(_) => return,
                };
                for event in ready {
                    if queue.send(Message::Readable(event.data.u64())).is_err() {
                        return;
                    }
                }
            }
        })?;
        Ok(Self { epoll, next: 1 })
    }

    /// Watches a descriptor. It is forgotten when its last duplicate is closed.
    ///
    /// # Errors
    /// The error of `epoll_ctl(2)`: the descriptor is of a kind that cannot be watched.
    pub fn watch(&mut self, descriptor: impl AsFd) -> io::Result<Token> {
        let token = self.next;
        self.next += 1;
        epoll::add(&self.epoll, descriptor, EventData::new_u64(token), ONCE)?;
        Ok(token)
    }

    /// Watches on after a watch has fired.
    ///
    /// # Errors
    /// The error of `epoll_ctl(2)`.
    pub fn again(&self, descriptor: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, descriptor, EventData::new_u64(token), ONCE)?)
    }

    /// Ends a watch. Needed where duplicates of the descriptor live on.
    pub fn forget(&self, descriptor: impl AsFd) {
        // It may have been forgotten already, which is as good.
        let _ = epoll::delete(&self.epoll, descriptor);
    }
}

/// What the driver remembers of its watches.
pub type Watches<T> = HashMap<Token, T>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_watch_fires_once_until_it_is_armed_again() {
        let (sender, receiver) = crossbeam_channel::bounded(8);
        let mut poller = Poller::start(sender).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let token = poller.watch(&reader).unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        let fired = |message| matches!(message, Message::Readable(fired) if fired == token);
        assert!(fired(receiver.recv_timeout(Duration::from_secs(10)).unwrap()));
        rustix::io::write(&writer, b"x").unwrap();
        let other = poller.watch(&writer).unwrap();
        assert_ne!(other, token);
        poller.again(&reader, token).unwrap();
        assert!(fired(receiver.recv_timeout(Duration::from_secs(10)).unwrap()));
        assert!(poller.watch(std::fs::File::open("/etc/hostname").unwrap()).is_err());
    }
}
