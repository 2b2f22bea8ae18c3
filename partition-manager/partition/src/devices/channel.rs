//! The communication channel: the frame asks, the guest approves or denies
//! ([`frame::platform::CHANNEL_PORT`]).

use super::bus::Device;
use super::lock;
use frame::platform::{
    CHANNEL_ANSWER, CHANNEL_APPROVE, CHANNEL_DENY, CHANNEL_NOTHING, CHANNEL_PRESENT, CHANNEL_REQUEST, CHANNEL_SHUTDOWN,
    CHANNEL_SIGNATURE,
};
use frame::record::Cause;
use frame::wire::ChannelAnswer;
use std::sync::Mutex;
use vmm_sys_util::eventfd::EventFd;

#[derive(Clone, Copy, Debug, Default)]
struct State {
    present: bool,
    asked: bool,
    answer: Option<ChannelAnswer>,
}

/// The channel.
#[derive(Debug)]
pub struct Channel {
    state: Mutex<State>,
    wake: EventFd,
}

impl Channel {
    /// A channel that signals `wake` when there is an answer to take.
    #[must_use]
    pub fn new(wake: EventFd) -> Self {
        Self { state: Mutex::new(State::default()), wake }
    }

    /// Asks the guest to shut down. [`ChannelAnswer::Absent`] when no guest software listens.
    pub fn ask(&self) -> ChannelAnswer {
        let mut state = lock(&self.state);
        if !state.present {
            return ChannelAnswer::Absent;
        }
        state.asked = true;
        state.answer = None;
        ChannelAnswer::Pending
    }

    /// The answer that came since the last call. At most one comes for each question.
    pub fn take(&self) -> Option<ChannelAnswer> {
        lock(&self.state).answer.take()
    }
}

impl Device for Channel {
    fn read(&self, offset: u64) -> u8 {
        if let Some(byte) = CHANNEL_SIGNATURE.to_le_bytes().get(offset as usize) {
            return *byte;
        }
        match offset == u64::from(CHANNEL_REQUEST) {
            true if lock(&self.state).asked => CHANNEL_SHUTDOWN,
            true => CHANNEL_NOTHING,
            false => 0xff,
        }
    }

    fn write(&self, offset: u64, value: u8) -> Option<Cause> {
        if offset != u64::from(CHANNEL_ANSWER) {
            return None;
        }
        let mut state = lock(&self.state);
        let answer = match value {
            CHANNEL_PRESENT => {
                state.present = true;
                return None;
            }
            CHANNEL_APPROVE => ChannelAnswer::Approved,
            CHANNEL_DENY => ChannelAnswer::Denied,
            _ => return None,
        };
        // Who was not asked has nothing to answer: a guest cannot flood the manager.
        if std::mem::take(&mut state.asked) {
            state.answer = Some(answer);
            // A full eventfd wakes just as well.
            let _ = self.wake.write(1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::platform::CHANNEL_PORT;
    use std::sync::Arc;

    fn channel() -> Arc<Channel> {
        Arc::new(Channel::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()))
    }

    #[test]
    fn the_signature_reads_as_one_word() {
        let bus = super::super::bus::Bus::new(vec![super::super::bus::Claim::new(
            "channel",
            CHANNEL_PORT.into(),
            8,
            channel(),
        )])
        .unwrap();
        let mut word = [0; 4];
        bus.read(CHANNEL_PORT.into(), 4, &mut word);
        assert_eq!(&word, b"BLKH");
    }

    #[test]
    fn a_question_gets_one_answer() {
        let channel = channel();
        assert_eq!(channel.ask(), ChannelAnswer::Absent);
        channel.write(CHANNEL_ANSWER.into(), CHANNEL_APPROVE);
        assert_eq!(channel.take(), None);
        channel.write(CHANNEL_ANSWER.into(), CHANNEL_PRESENT);
        assert_eq!(channel.read(CHANNEL_REQUEST.into()), CHANNEL_NOTHING);
        assert_eq!(channel.ask(), ChannelAnswer::Pending);
        assert_eq!(channel.read(CHANNEL_REQUEST.into()), CHANNEL_SHUTDOWN);
        channel.write(CHANNEL_ANSWER.into(), CHANNEL_DENY);
        channel.write(CHANNEL_ANSWER.into(), CHANNEL_APPROVE);
        assert_eq!(channel.wake.read().unwrap(), 1);
        assert_eq!(channel.take(), Some(ChannelAnswer::Denied));
        assert_eq!(channel.take(), None);
        assert_eq!(channel.read(CHANNEL_REQUEST.into()), CHANNEL_NOTHING);
    }
}
