//! The parts of a device while it is live: its queues, guest memory and its interrupt.

use std::sync::Arc;

use memsvc::seldom::is_due;
use tracing::warn;

use super::transport::TransportMetrics;
use super::{Chain, Completion, GuestRam, Interrupt, QueueError, Used, VirtQueue, Work};

/// Handed to a device on activation, dropped on reset.
#[derive(Debug)]
pub struct Active {
    /// Guest RAM.
    pub memory: GuestRam,
    /// Features that the driver acknowledged.
    pub features: u64,
    /// How to reach the driver.
    pub interrupt: Arc<Interrupt>,
    pub(super) queues: Vec<VirtQueue>,
    pub(super) metrics: Arc<TransportMetrics>,
}

impl Active {
    /// Whether the driver acknowledged feature `bit`.
    pub fn has(&self, bit: u32) -> bool {
        self.features & (1 << bit) != 0
    }

    /// One of the queues, if it exists.
    pub fn queue(&mut self, index: usize) -> Option<ActiveQueue<'_>> {
        let Self { memory, interrupt, queues, metrics, .. } = self;
        queues.get_mut(index).map(|queue| ActiveQueue { index, queue, memory, interrupt, metrics })
    }

    /// Two of the queues, to use one while the other is served; if both exist and are not the same.
    pub fn pair(&mut self, indexes: [usize; 2]) -> Option<[ActiveQueue<'_>; 2]> {
        let Self { memory, interrupt, queues, metrics, .. } = self;
        let [one, other] = queues.get_disjoint_mut(indexes).ok()?;
        let with = |index, queue| ActiveQueue { index, queue, memory, interrupt, metrics };
        Some([with(indexes[0], one), with(indexes[1], other)])
    }

    /// Serves waiting chains of one queue ([`ActiveQueue::serve`]) and interrupts the driver once.
    pub fn serve(&mut self, index: usize, serve: impl FnMut(&GuestRam, Chain<'_>) -> Completion) -> Work {
        let Some(mut queue) = self.queue(index) else { return Work::Done };
        let work = queue.serve(serve);
        queue.announce();
        work
    }

    /// Gives back chains that were [held](Completion::Held), nothing written into them.
    pub fn give_back(&mut self, index: usize, heads: impl Iterator<Item = u16>) {
        if let Some(mut queue) = self.queue(index) {
            queue.run(|queue, memory| queue.give_back(memory, heads));
            queue.announce();
        }
    }

    /// The driver stops using one queue.
    pub fn stop_queue(&mut self, index: usize) {
        if let Some(queue) = self.queues.get_mut(index) {
            queue.stop();
        }
    }
}

/// One queue of a live device, with what serving it takes. While the queue may not be served (it is not in
/// use, or the device needs a reset), nothing comes out of it and nothing goes in.
#[derive(Debug)]
pub struct ActiveQueue<'a> {
    index: usize,
    queue: &'a mut VirtQueue,
    memory: &'a GuestRam,
    interrupt: &'a Interrupt,
    metrics: &'a TransportMetrics,
}

impl<'a> ActiveQueue<'a> {
    /// Guest RAM.
    pub fn memory(&self) -> &'a GuestRam {
        self.memory
    }

    /// Entries in the ring.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Serves waiting chains with `serve`, about a ring-full of descriptors. The driver hears of those that were
    /// used at [`Self::announce`]. A ring that makes no sense puts the device into the state that needs a reset.
    pub fn serve(&mut self, serve: impl FnMut(&GuestRam, Chain<'_>) -> Completion) -> Work {
        self.run(|queue, memory| queue.drain(memory, serve)).unwrap_or(Work::Done)
    }

    /// Shows the next waiting chain to `look`; it is the device's until [`Self::publish`]. `None`: none waits,
    /// and the driver kicks when one does.
    pub fn take<R>(&mut self, look: impl FnOnce(&GuestRam, Chain<'_>) -> R) -> Option<R> {
        self.run(|queue, memory| Ok(queue.take(memory)?.map(|chain| look(memory, chain)))).flatten()
    }

    /// Gives back chains that were taken, at most a ring-full, all in one moment for the driver. It hears of
    /// them at [`Self::announce`].
    pub fn publish(&mut self, used: &[Used]) {
        self.run(|queue, memory| queue.publish(memory, used));
    }

    /// Interrupts the driver, if it wants to hear of what was given back since the last time.
    pub fn announce(&mut self) {
        if self.is_awaited() {
            self.interrupt.used_buffers();
        }
    }

    /// As [`Self::announce`], of this queue and another one of the device with a single interrupt.
    pub fn announce_with(&mut self, other: &mut ActiveQueue<'_>) {
        // Both are asked: who is forgets what was announced.
        if self.is_awaited() | other.is_awaited() {
            self.interrupt.used_buffers();
        }
    }

    fn is_awaited(&mut self) -> bool {
        self.run(VirtQueue::wants_interrupt) == Some(true)
    }

    /// Does something with the ring, if it may be served; if it makes no sense the device stops.
    fn run<R>(&mut self, act: impl FnOnce(&mut VirtQueue, &GuestRam) -> Result<R, QueueError>) -> Option<R> {
        if !self.interrupt.is_running() || !self.queue.is_ready() {
            return None;
        }
        match act(self.queue, self.memory) {
            Ok(result) => Some(result),
            Err(error) => {
                self.metrics.queue_errors.inc();
                let times = self.metrics.queue_errors.get();
                if is_due(times) {
                    warn!(times, queue = self.index, %error, "a device stops until its driver resets it");
                }
                self.interrupt.needs_reset();
                None
            }
        }
    }
}
