//! Serves one device on the event loop: a kick of a queue becomes [`VirtioDevice::process_queue`],
//! an event of the device's own (a timer) becomes [`VirtioDevice::process_event`].
//!
//! A device is asked for at most one queue-full of work at a time. When it says that there is more,
//! the queue is kicked again, so other devices on the loop get their turn first. Its own events are
//! edge-triggered: a device that cannot go on (no buffers, no tokens) is not woken for what it knows. Beside them there is
//! what the driver has seen of its interrupts ([`Seen`](crate::devices::virtio::Seen)).
//!
//! [`VirtioDevice::process_queue`]: crate::devices::virtio::VirtioDevice::process_queue
//! [`VirtioDevice::process_event`]: crate::devices::virtio::VirtioDevice::process_event

use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use memsvc::seldom;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::{Interrupt, OwnEvent, SharedDevice, Work, lock};
use crate::vm::event_loop::Served;

/// Event data from here on are the device's own events, below they are queue indexes.
const OWN: u32 = 0x1_0000;

/// Time to see what the driver has acknowledged.
const SETTLE: u32 = 0x2_0000;
/// It has acknowledged something that was waited for.
const SEEN: u32 = SETTLE + 1;

/// The subscriber of one device.
pub struct DeviceEvents {
    device: SharedDevice,
    kicks: Vec<Arc<EventFd>>,
    own: Vec<OwnEvent>,
    interrupt: Arc<Interrupt>,
    not_added: Option<String>,
}

impl DeviceEvents {
    /// Serves `device`, whose queues are kicked through `kicks` (one per queue, in order) and whose line is `interrupt`.
    pub fn new(device: SharedDevice, kicks: Vec<Arc<EventFd>>, interrupt: Arc<Interrupt>) -> Self {
        let own = lock(&device).own_events();
        Self { device, kicks, own, interrupt, not_added: None }
    }

    fn process_kick(&self, index: usize, kick: &EventFd) {
        // Nothing to read means that somebody took the kick already: the queue is looked at all the
        // same, which costs little and cannot lose a request.
        let _ = kick.read();
        if lock(&self.device).process_queue(index) == Work::More {
            // The counter is far from its limit: at most one is added for each one read.
            let _ = kick.write(1);
        }
    }

    fn process_own(&self, token: u16) {
        let queue = lock(&self.device).process_event(token);
        if let Some(kick) = queue.and_then(|index| self.kicks.get(index)) {
            // Far from its limit: events of one device come at most as often as they are taken.
            let _ = kick.write(1);
        }
    }

    /// Clears what the driver has acknowledged, or waits for that.
    fn settle(&self, ops: &EventOps<'_>) {
        let is_settled = {
            let _device = lock(&self.device);
            self.interrupt.settle()
        };
        if is_settled {
            return;
        }
        if let Err(cause) = ops.modify(self.seen(EventSet::IN)) {
            seldom!(error, %cause, "a driver's acknowledgement cannot be waited for");
        }
    }

    /// The event of an acknowledgement, once.
    fn seen(&self, events: EventSet) -> Events {
        Events::with_data(self.interrupt.seen().event(), SEEN, events | EventSet::ONE_SHOT)
    }
}

impl MutEventSubscriber for DeviceEvents {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let kicks = (0u32..)
            .zip(&self.kicks)
            .map(|(index, kick)| Events::with_data(kick.as_ref(), index, EventSet::IN));
        let each_time = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let own = self
            .own
            .iter()
            .map(|event| Events::with_data_raw(event.fd, OWN + u32::from(event.token), each_time));
        let settle = Events::with_data(self.interrupt.seen().timer(), SETTLE, each_time);
        for event in kicks.chain(own).chain([settle, self.seen(EventSet::empty())]) {
            if let Err(cause) = ops.add(event) {
                self.not_added.get_or_insert_with(|| cause.to_string());
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let data = events.data();
        if matches!(data, SETTLE | SEEN) {
            return self.settle(ops);
        }
        match data.checked_sub(OWN).map(u16::try_from) {
            Some(Ok(token)) => self.process_own(token),
            Some(Err(_)) => seldom!(warn, data, "an event that no device asked for"),
            None => match self.kicks.get(data as usize) {
                Some(kick) => self.process_kick(data as usize, kick),
                None => seldom!(warn, data, "a kick of a queue that does not exist"),
            },
        }
    }
}

impl Served for DeviceEvents {
    fn not_added(&self) -> Option<String> {
        self.not_added.clone()
    }
}
