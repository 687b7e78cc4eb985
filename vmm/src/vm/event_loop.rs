//! The threads on which devices serve their queues. One that fails ends the guest ([`Guard`]).

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use memsvc::guard::Guard;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::devices::virtio::lock;

/// Bytes of stack. Pages of swap are packed here; only what is touched is resident.
const STACK: usize = 1 << 20;
/// The guest's loss with a loop.
const LOSS: &str = "the guest's devices are not served any more";

/// A subscriber of the loop.
pub trait Served: MutEventSubscriber + Send {
    /// Why an event of its own could not be added to the loop, if one could not.
    fn not_added(&self) -> Option<String>;
}

/// The same, shared.
pub type Subscriber = Arc<Mutex<dyn Served>>;

/// The running loop. Dropping it ends the thread.
#[derive(Debug)]
pub struct EventLoop {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl EventLoop {
    /// Serves `subscribers` from a thread of this name, which calls `after` each turn.
    ///
    /// # Errors
    /// The host has no thread or no event for it.
    pub fn start(
        name: &str,
        guard: &Guard,
        mut after: impl FnMut() + Send + 'static,
        subscribers: Vec<Subscriber>,
    ) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let mut manager = EventManager::new().map_err(failed)?;
        let stopper = Stopper { stop: stop.try_clone()?, stopped: Arc::clone(&stopped), not_added: None };
        let stopper: Subscriber = Arc::new(Mutex::new(stopper));
        for subscriber in subscribers.into_iter().chain([stopper]) {
            manager.add_subscriber(Arc::clone(&subscriber));
            if let Some(why) = lock(&subscriber).not_added() {
                return Err(io::Error::other(format!("an event cannot be watched: {why}")));
            }
        }
        let thread = guard.spawn(name, STACK, LOSS, move || {
            turn_until(&stopped, || {
                let turn = manager.run();
                after();
                turn
            })
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

/// Takes turns until it is stopped.
fn turn_until(
    stopped: &AtomicBool,
    mut turn: impl FnMut() -> Result<usize, event_manager::Error>,
) -> io::Result<()> {
    while !stopped.load(Ordering::Relaxed) {
        turn().map_err(failed)?;
    }
    Ok(())
}

fn failed(error: event_manager::Error) -> io::Error {
    io::Error::other(format!("events cannot be waited for: {error:?}"))
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
    not_added: Option<String>,
}

impl MutEventSubscriber for Stopper {
    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        let _ = self.stop.read();
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let event = Events::with_data_raw(self.stop.as_raw_fd(), 0, EventSet::IN);
        self.not_added = ops.add(event).err().map(|error| error.to_string());
    }
}

impl Served for Stopper {
    fn not_added(&self) -> Option<String> {
        self.not_added.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::RawFd;
    use std::time::Duration;

    use super::*;
    use crate::vm::exit::{Exit, ExitSlot};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Does this when its event comes.
    struct Does<F> {
        _event: EventFd,
        what: F,
        watched: RawFd,
        not_added: Option<String>,
    }

    impl<F: FnMut() + Send> MutEventSubscriber for Does<F> {
        fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
            (self.what)();
        }

        fn init(&mut self, ops: &mut EventOps<'_>) {
            let event = Events::with_data_raw(self.watched, 0, EventSet::IN);
            self.not_added = ops.add(event).err().map(|error| error.to_string());
        }
    }

    impl<F: FnMut() + Send> Served for Does<F> {
        fn not_added(&self) -> Option<String> {
            self.not_added.clone()
        }
    }

    fn does<F: FnMut() + Send>(what: F) -> Does<F> {
        let event = EventFd::new(EFD_NONBLOCK).expect("event");
        event.write(1).expect("rings");
        Does { watched: event.as_raw_fd(), _event: event, what, not_added: None }
    }

    /// How the process ends when a device does this on the loop of this name.
    fn end_after(name: &str, what: impl FnMut() + Send + 'static) -> Exit {
        let exit = Arc::new(ExitSlot::default());
        let subscriber: Subscriber = Arc::new(Mutex::new(does(what)));
        let running = EventLoop::start(name, &exit.guard(), || (), vec![subscriber]).expect("starts");
        let reason = exit.wait_timeout(PATIENCE).expect("the guest ends");
        drop(running);
        reason
    }

    #[test]
    fn a_device_that_panics_ends_the_guest_whichever_loop_serves_it() {
        for name in ["devices", "reclaim"] {
            let reason = end_after(name, || panic!("on purpose"));
            let said = reason.to_string();
            assert_eq!(reason.code(), 1, "{said}");
            assert!(said.contains(&format!("\"{name}\"")) && said.contains("a bug"), "{said}");
        }
    }

    #[test]
    fn a_loop_that_cannot_wait_for_events_ends_the_guest() {
        let exit = Arc::new(ExitSlot::default());
        let turns = || turn_until(&AtomicBool::new(false), || Err(event_manager::Error::InvalidId));
        exit.guard().spawn("devices", STACK, LOSS, turns).expect("a thread").join().expect("ends");
        let reason = exit.get().expect("the guest ends");
        assert_eq!(reason.code(), 1);
        assert!(reason.to_string().contains("events cannot be waited for"), "{reason}");
    }

    #[test]
    fn what_cannot_be_watched_is_said_at_the_start() {
        let exit = Arc::new(ExitSlot::default());
        // Epoll takes no files.
        let file = tempfile::tempfile().expect("a file");
        let subscriber: Subscriber = Arc::new(Mutex::new(Does { watched: file.as_raw_fd(), ..does(|| ()) }));
        let refused = EventLoop::start("devices", &exit.guard(), || (), vec![subscriber]).err();
        let why = refused.expect("refused").to_string();
        assert!(why.contains("cannot be watched"), "{why}");
        assert_eq!(exit.get(), None);
    }
}
