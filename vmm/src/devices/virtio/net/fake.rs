//! A back end that hands out what it is given, and writes down what it gets.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Header, Inbox, NetBackend, Outgoing, Room, Transmitted, feature};
use crate::devices::virtio::lock;

/// What the back end has and got.
#[derive(Default)]
pub(in crate::devices::virtio) struct State {
    /// For the guest.
    pub(in crate::devices::virtio) frames: VecDeque<(Header, Vec<u8>)>,
    /// From the guest.
    pub(in crate::devices::virtio) got: Vec<(Header, Vec<u8>)>,
    /// What is said of the next frames; `Sent` when there is nothing.
    pub(in crate::devices::virtio) answers: VecDeque<Transmitted>,
    /// Each frame from the guest goes back to it, or waits.
    pub(in crate::devices::virtio) echoes: bool,
    pub(in crate::devices::virtio) offloads: Vec<u64>,
    pub(in crate::devices::virtio) resets: u32,
}

#[derive(Clone)]
pub(in crate::devices::virtio) struct Fake {
    pub(in crate::devices::virtio) state: Arc<Mutex<State>>,
    event: Arc<EventFd>,
}

impl Fake {
    pub(in crate::devices::virtio) fn new() -> Self {
        Self { state: Arc::default(), event: Arc::new(EventFd::new(EFD_NONBLOCK).expect("event")) }
    }

    pub(in crate::devices::virtio) fn send(&self, frames: impl IntoIterator<Item = Vec<u8>>) {
        lock(&self.state).frames.extend(frames.into_iter().map(|frame| (Header::default(), frame)));
        self.event.write(1).expect("event");
    }
}

impl NetBackend for Fake {
    fn features(&self) -> u64 {
        feature::OFFLOADS
    }
    fn set_offloads(&mut self, features: u64) -> io::Result<()> {
        lock(&self.state).offloads.push(features);
        Ok(())
    }
    fn transmit(&mut self, frame: &Outgoing<'_>, inbox: &mut Inbox<'_>) -> Transmitted {
        let mut state = lock(&self.state);
        let mut bytes = vec![0; frame.len()];
        assert_eq!(frame.copy_to(&mut bytes), bytes.len());
        if state.echoes {
            if inbox.room(bytes.len()) != Room::Enough {
                return Transmitted::Later;
            }
            assert!(inbox.put(frame.header(), &bytes));
        }
        let answer = state.answers.pop_front().unwrap_or(Transmitted::Sent);
        if answer == Transmitted::Sent {
            state.got.push((*frame.header(), bytes));
        }
        answer
    }
    fn receive(&mut self, inbox: &mut Inbox<'_>) {
        let mut state = lock(&self.state);
        while let Some((header, frame)) = state.frames.pop_front() {
            match inbox.room(frame.len()) {
                Room::Enough => assert!(inbox.put(&header, &frame), "there was room"),
                Room::TooSmall => inbox.dropped_too_large(),
                Room::Wait => return state.frames.push_front((header, frame)),
            }
        }
    }
    fn events(&self) -> Vec<RawFd> {
        vec![self.event.as_raw_fd()]
    }
    fn reset(&mut self) {
        lock(&self.state).resets += 1;
    }
}
