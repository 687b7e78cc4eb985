//! What a device has while it is live: its queues, guest memory and its interrupt.

use std::sync::Arc;

use tracing::warn;

use super::transport::TransportMetrics;
use super::{Chain, Completion, GuestRam, Interrupt, QueueError, VirtQueue, Work};

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

    /// Serves waiting chains of one queue with `serve`, about a ring-full of descriptors, and interrupts the
    /// driver once. A ring that makes no sense puts the device into the state that needs a reset.
    pub fn serve(&mut self, index: usize, serve: impl FnMut(&GuestRam, Chain<'_>) -> Completion) -> Work {
        let Some(queue) = running(&self.interrupt, &mut self.queues, index) else {
            return Work::Done;
        };
        match queue.drain(&self.memory, serve) {
            Ok(turn) => {
                if turn.notify {
                    self.interrupt.used_buffers();
                }
                turn.work
            }
            Err(error) => {
                self.fail(index, &error);
                Work::Done
            }
        }
    }

    /// Gives back chains that were [held](Completion::Held), nothing written into them.
    pub fn give_back(&mut self, index: usize, heads: impl Iterator<Item = u16>) {
        let Some(queue) = running(&self.interrupt, &mut self.queues, index) else {
            return;
        };
        match queue.give_back(&self.memory, heads) {
            Ok(true) => self.interrupt.used_buffers(),
            Ok(false) => {}
            Err(error) => self.fail(index, &error),
        }
    }

    /// The driver stops using one queue.
    pub fn stop_queue(&mut self, index: usize) {
        if let Some(queue) = self.queues.get_mut(index) {
            queue.stop();
        }
    }

    fn fail(&self, index: usize, error: &QueueError) {
        warn!(queue = index, %error, "a device stops until its driver resets it");
        self.metrics.queue_errors.inc();
        self.interrupt.needs_reset();
    }
}

/// The queue, if it exists and may be served now.
fn running<'a>(
    interrupt: &Interrupt,
    queues: &'a mut [VirtQueue],
    index: usize,
) -> Option<&'a mut VirtQueue> {
    let queue = queues.get_mut(index)?;
    (interrupt.is_running() && queue.is_ready()).then_some(queue)
}
