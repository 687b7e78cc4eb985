//! The threads on which devices serve their queues.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes of stack. Pages of swap are packed here; only what is touched is resident.
const STACK: usize = 1 << 20;

/// What is served.
pub type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// The running loop. Dropping it ends the thread.
#[derive(Debug)]
pub struct EventLoop {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl EventLoop {
    /// Serves `subscribers` from a thread of this name, which `begins` with this.
    pub fn start(
        name: &str,
        begins: impl FnOnce() + Send + 'static,
        subscribers: Vec<Subscriber>,
    ) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let mut manager = EventManager::new().map_err(|error| io::Error::other(format!("{error:?}")))?;
        for subscriber in subscribers {
            manager.add_subscriber(subscriber);
        }
        let stopper: Subscriber =
            Arc::new(Mutex::new(Stopper { stop: stop.try_clone()?, stopped: Arc::clone(&stopped) }));
        manager.add_subscriber(stopper);
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
            begins();
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = manager.run() {
                    tracing::error!(?error, "an event loop failed; its devices stand still");
                    return;
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Turns the stop event into the end of the loop.
struct Stopper {
    stop: EventFd,
    stopped: Arc<AtomicBool>,
}

impl MutEventSubscriber for Stopper {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        let _ = self.stop.read();
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let event = Events::with_data_raw(self.stop.as_raw_fd(), 0, EventSet::IN);
        if let Err(error) = ops.add(event) {
            tracing::error!(?error, "an event loop cannot be stopped");
        }
    }
}
