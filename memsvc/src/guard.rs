//! Threads that a guest cannot do without.
//!
//! ```text
//!   thread ── told to end ──▶ returns, and nothing happens
//!          └─ error, panic ─▶ whoever answers for the guest is told, in a sentence that names the thread and what is lost
//! ```
//! A thread that is just gone leaves a guest that seems to run and is half dead. So every thread that lives as long as the guest
//! is started here, and the first that fails ends the guest. Not here are threads whose failure their starter sees: movers of a
//! benchmark, connections of `swap serve`, and those on which the API makes its calls.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// How long [`Guard::join`] waits for a thread once one has failed.
const GRACE: Duration = Duration::from_secs(1);

/// The guard of a monitor's threads: it tells of one that fails. Clones share it.
#[derive(Clone)]
pub struct Guard {
    failed: Arc<dyn Fn(String) + Send + Sync>,
    has_failed: Arc<AtomicBool>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("has_failed", &self.has_failed()).finish_non_exhaustive()
    }
}

impl Guard {
    /// Tells `failed` in a sentence what is lost and why, on the thread that fails: it is not to wait. It may be told again
    /// by the next one.
    pub fn new(failed: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { failed: Arc::new(failed), has_failed: Arc::default() }
    }

    /// The same guard, which does this, too, when a thread fails.
    pub fn and(&self, also: impl Fn() + Send + Sync + 'static) -> Self {
        let failed = Arc::clone(&self.failed);
        Self {
            failed: Arc::new(move |why| {
                failed(why);
                also();
            }),
            has_failed: Arc::clone(&self.has_failed),
        }
    }

    /// Starts a thread of this name with a stack of so many bytes. It returns when it is told to; if it fails or panics
    /// before, `loss` begins the sentence: "the guest's devices are not served any more".
    ///
    /// # Errors
    /// The host has no thread to spare.
    pub fn spawn(
        &self,
        name: impl Into<String>,
        stack: usize,
        loss: &'static str,
        body: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let (guard, name) = (self.clone(), name.into());
        let thread = Builder::new().name(name.clone()).stack_size(stack);
        thread.spawn(move || match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => guard.tell(&name, loss, &error.to_string()),
            Err(_) => guard.tell(&name, loss, PANIC),
        })
    }

    /// Does on the calling thread what a guest cannot do without. A panic goes on once it is told.
    pub fn watch<T>(&self, name: &str, loss: &str, body: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
            self.tell(name, loss, PANIC);
            std::panic::resume_unwind(panic)
        })
    }

    /// Whether a thread has failed.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Waits for a thread that was told to end. Once one has failed, what this one waits for may never come: the
    /// process ends without it then.
    pub fn join(&self, thread: JoinHandle<()>) {
        let since = Instant::now();
        while self.has_failed() && !thread.is_finished() {
            if since.elapsed() > GRACE {
                return;
            }
            sleep(Duration::from_millis(1));
        }
        // A panic was told.
        let _ = thread.join();
    }

    fn tell(&self, name: &str, loss: &str, why: &str) {
        self.has_failed.store(true, Ordering::Release);
        (self.failed)(format!("{loss}: the monitor's thread \"{name}\" failed: {why}"));
    }
}

/// Why a thread has failed that panicked.
const PANIC: &str = "a panic, which is a bug (the message before says where)";

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn told(body: impl FnOnce() -> io::Result<()> + Send + 'static) -> Option<String> {
        let (sender, told) = channel();
        let (also, done) = channel();
        let guard = Guard::new(move |why| sender.send(why).unwrap()).and(move || also.send(()).unwrap());
        let thread = guard.spawn("worker", 64 << 10, "nothing works any more", body).unwrap();
        thread.join().unwrap();
        let told = told.try_recv().ok();
        assert_eq!((guard.has_failed(), done.try_recv().is_ok()), (told.is_some(), told.is_some()));
        told
    }

    #[test]
    fn whoever_fails_is_named_and_why() {
        assert_eq!(told(|| Ok(())), None);
        assert_eq!(
            told(|| Err(io::Error::other("no luck"))).unwrap(),
            "nothing works any more: the monitor's thread \"worker\" failed: no luck"
        );
        let why = told(|| panic!("on purpose")).unwrap();
        assert!(
            why.starts_with("nothing works any more: ") && why.contains("worker") && why.contains("a bug")
        );
    }

    #[test]
    fn nobody_waits_for_ever_once_one_has_failed() {
        let guard = Guard::new(|_| ());
        let (hold, held) = channel::<()>();
        let waits =
            guard.spawn("waits", 64 << 10, "", move || held.recv().map_err(io::Error::other)).unwrap();
        let fails = guard.spawn("fails", 64 << 10, "", || panic!("on purpose")).unwrap();
        fails.join().unwrap();
        let since = Instant::now();
        guard.join(waits);
        assert!(since.elapsed() < PATIENCE);
        drop(hold);
    }
}
