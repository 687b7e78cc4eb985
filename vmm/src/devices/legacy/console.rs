//! Both directions of a serial console, each with a thread of its own. So neither a slow reader of our output
//! nor a flood of input holds a CPU up.
//!
//! ```text
//! guest ─ byte ─▶ [queue, bounded] ─▶ writer thread ─ all there is, in one write ─▶ file
//! guest ◀─ FIFO ◀─ reader thread, which waits for room ◀─ blocking read ─ file
//! ```
//! Output is not delayed: the writer starts with the first byte, and what comes meanwhile goes with
//! the next write. A limit of its rate drops what comes too fast. Input is read by blocking, which works alike for terminals, pipes, files and
//! `/dev/null` (epoll takes only two of these), and ends with the file.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use memsvc::guard::Guard;

use crate::devices::virtio::Counter;
use crate::devices::virtio::rate::{Limit, TokenBucket};

/// Output that waits at most, bytes; what comes then is lost and counted.
const QUEUE: usize = 1 << 20;
/// Stack of a console thread, bytes.
const STACK: usize = 64 << 10;
/// Bytes read at a time.
const CHUNK: usize = 4096;

/// Where a console's input comes from.
pub type ConsoleInput = Box<dyn Read + Send>;

/// Bytes that the guest wrote to its console and read from there.
#[derive(Debug, Default, serde::Serialize)]
pub struct ConsoleMetrics {
    /// Bytes that the guest has read.
    pub read_bytes: Counter,
    /// Bytes of the guest's that were taken, to be written.
    pub written_bytes: Counter,
    /// Accesses of the guest's of which an interrupt could not be raised.
    pub errors: Counter,
    /// Bytes lost because nobody read, or because writing failed.
    pub lost_bytes: Counter,
    /// Bytes that came faster than the limit lets them.
    pub limited_bytes: Counter,
}

/// The way out of a console. Clones share it; the writer ends when the last is gone and all is written.
#[derive(Clone)]
pub struct ConsoleOutput {
    shared: Arc<Output>,
    _last: Arc<Last>,
}

/// What all clones hold, and the writer does not.
struct Last(Arc<Output>);

impl Drop for Last {
    fn drop(&mut self) {
        let listener = {
            let mut queue = self.0.lock();
            queue.ended = true;
            queue.listener.take()
        };
        self.0.changed.notify_all();
        // Its client has all that was said, and hears that this is the end.
        drop(listener);
    }
}

/// The place of a listener: it hears nothing more once this is dropped. Does not keep the console.
#[derive(Debug)]
pub(super) struct Listening(Weak<Output>);

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(output) = self.0.upgrade() {
            output.lock().listener = None;
        }
    }
}

struct Output {
    state: Mutex<Queue>,
    /// There is something to write, or it has been written.
    changed: Condvar,
    metrics: Arc<ConsoleMetrics>,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("metrics", &self.metrics).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The writer has taken bytes and not yet written them.
    writing: bool,
    /// Writing has failed.
    closed: bool,
    /// Nobody is left who could queue more.
    ended: bool,
    limit: Option<RateLimit>,
    /// A client that hears all of it, too.
    listener: Option<ConsoleOutput>,
}

/// A limit of the rate at which bytes are queued.
struct RateLimit {
    bucket: TokenBucket,
    /// When time began for the bucket.
    start: Instant,
}

impl RateLimit {
    /// Takes a token for a byte, if there is one.
    fn lets_pass(&mut self) -> bool {
        let has_one = self.bucket.wait(self.start.elapsed()).is_none();
        if has_one {
            self.bucket.spend(1);
        }
        has_one
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsoleOutput {
    /// Starts a writer to `sink`, of no more bytes over time than `limit` lets pass.
    pub fn new(
        name: &str,
        sink: Box<dyn Write + Send>,
        limit: Option<Limit>,
        guard: &Guard,
    ) -> io::Result<Self> {
        let bucket = limit.and_then(|limit| TokenBucket::new(limit, Duration::ZERO));
        let limit = bucket.map(|bucket| RateLimit { bucket, start: Instant::now() });
        let shared = Arc::new(Output {
            state: Mutex::new(Queue { limit, ..Queue::default() }),
            changed: Condvar::new(),
            metrics: Arc::default(),
        });
        let writer = Arc::clone(&shared);
        guard.spawn(
            format!("{name}-out"),
            STACK,
            "the guest's console says nothing any more",
            move || {
                write_all(&writer, sink);
                Ok(())
            },
        )?;
        Ok(Self { _last: Arc::new(Last(Arc::clone(&shared))), shared })
    }

    /// Queues a byte.
    pub(super) fn push(&self, byte: u8) {
        let mut queue = self.shared.lock();
        if queue.limit.as_mut().is_some_and(|limit| !limit.lets_pass()) {
            return self.shared.metrics.limited_bytes.inc();
        }
        if let Some(listener) = &queue.listener {
            listener.push(byte);
        }
        if queue.bytes.len() >= QUEUE || queue.closed {
            return self.shared.metrics.lost_bytes.inc();
        }
        queue.bytes.push(byte);
        self.shared.metrics.written_bytes.inc();
        // A writer at work looks again by itself.
        if queue.bytes.len() == 1 && !queue.writing {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until all output is written, at most `limit`. Call it before the process exits.
    pub fn drain(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut queue = self.shared.lock();
        while (!queue.bytes.is_empty() || queue.writing) && !queue.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Has another output get all that this one gets from now on; `None` if one does already.
    pub(super) fn listen(&self, listener: ConsoleOutput) -> Option<Listening> {
        let mut queue = self.shared.lock();
        let is_free = queue.listener.is_none();
        if is_free {
            queue.listener = Some(listener);
        }
        is_free.then(|| Listening(Arc::downgrade(&self.shared)))
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<ConsoleMetrics> {
        &self.shared.metrics
    }
}

impl fmt::Debug for ConsoleOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

/// The writer thread. It ends when writing fails, since the other side is gone then, and when nobody is
/// left who could queue more.
fn write_all(shared: &Output, mut sink: Box<dyn Write + Send>) {
    let mut batch = Vec::new();
    let mut queue = shared.lock();
    loop {
        while queue.bytes.is_empty() {
            if queue.ended {
                return;
            }
            queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut queue.bytes, &mut batch);
        queue.writing = true;
        drop(queue);
        let result = sink.write_all(&batch).and_then(|()| sink.flush());
        if result.is_err() {
            shared.metrics.lost_bytes.add(batch.len() as u64);
        }
        batch.clear();
        batch.shrink_to(CHUNK);
        queue = shared.lock();
        queue.writing = false;
        if result.is_err() {
            queue.closed = true;
            queue.bytes = Vec::new();
        }
        shared.changed.notify_all();
        if queue.closed {
            return;
        }
    }
}

/// Starts a reader of `source` that hands on what it reads. `deliver` returns when it has taken all
/// of it, or `false` to end.
pub(super) fn read_all(
    name: &str,
    mut source: ConsoleInput,
    guard: &Guard,
    mut deliver: impl FnMut(&[u8]) -> bool + Send + 'static,
) -> io::Result<()> {
    let read = move || {
        let mut chunk = [0; CHUNK];
        loop {
            match source.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    if !chunk.get(..n).is_some_and(&mut deliver) {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The terminal is gone, as at the end of a file; the guest goes on.
                Err(_) => return Ok(()),
            }
        }
    };
    guard.spawn(format!("{name}-in"), STACK, "the guest's console hears nothing any more", read).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::exit::ExitSlot;

    const PATIENCE: Duration = Duration::from_secs(60);

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("on purpose");
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("on purpose");
        }
    }

    fn ends(exit: &ExitSlot, name: &str) {
        let reason = exit.wait_timeout(PATIENCE).expect("the guest ends");
        let said = reason.to_string();
        assert_eq!(reason.code(), 1, "{said}");
        assert!(said.contains(&format!("\"{name}\"")) && said.contains("a bug"), "{said}");
    }

    #[test]
    fn a_panic_of_either_thread_ends_the_guest_and_holds_nobody_up() {
        let exit = Arc::new(ExitSlot::default());
        let output = ConsoleOutput::new("serial", Box::new(Broken), None, &exit.guard()).unwrap();
        output.push(1);
        ends(&exit, "serial-out");
        let since = Instant::now();
        output.drain(Duration::from_millis(10));
        assert!(since.elapsed() < PATIENCE);

        let exit = Arc::new(ExitSlot::default());
        read_all("serial", Box::new(Broken), &exit.guard(), |_| true).unwrap();
        ends(&exit, "serial-in");
    }

    #[test]
    fn what_comes_faster_than_the_limit_lets_it_is_dropped_and_counted() {
        let limit = Limit { size: 3, one_time_burst: 2, refill_time: Duration::from_secs(1 << 30) };
        let exit = Arc::new(ExitSlot::default());
        let output = ConsoleOutput::new("serial", Box::new(io::sink()), Some(limit), &exit.guard()).unwrap();
        (0..9).for_each(|byte| output.push(byte));
        assert_eq!((output.metrics().limited_bytes.get(), output.metrics().lost_bytes.get()), (4, 0));
    }
}
