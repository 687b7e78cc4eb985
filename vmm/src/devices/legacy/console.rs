//! Both directions of a serial console, each with a thread of its own, so that neither a slow reader
//! of our output nor a flood of input holds a CPU up.
//!
//! ```text
//! guest ─ byte ─▶ [queue, bounded] ─▶ writer thread ─ all there is, in one write ─▶ file
//! guest ◀─ FIFO ◀─ reader thread, which waits for room ◀─ blocking read ─ file
//! ```
//! Output is not delayed: the writer starts with the first byte, and what comes meanwhile goes with
//! the next write. Input is read by blocking, which works alike for terminals, pipes, files and
//! `/dev/null` (epoll takes only two of these), and ends with the file.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use memsvc::guard::Guard;

/// Output that waits at most, bytes; what comes then is lost and counted.
const QUEUE: usize = 1 << 20;
/// Stack of a console thread, bytes.
const STACK: usize = 64 << 10;
/// Bytes read at a time.
const CHUNK: usize = 4096;

/// Where a console's input comes from.
pub type ConsoleInput = Box<dyn Read + Send>;

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
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

struct Output {
    state: Mutex<Queue>,
    /// There is something to write, or it has been written.
    changed: Condvar,
    lost: AtomicU64,
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
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsoleOutput {
    /// Starts a writer to `sink`.
    pub fn new(name: &str, sink: Box<dyn Write + Send>, guard: &Guard) -> io::Result<Self> {
        let shared = Arc::new(Output {
            state: Mutex::new(Queue::default()),
            changed: Condvar::new(),
            lost: AtomicU64::new(0),
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
        if queue.bytes.len() >= QUEUE || queue.closed {
            drop(queue);
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.bytes.push(byte);
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

    /// Bytes lost because nobody read, or because writing failed.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for ConsoleOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleOutput").field("lost", &self.lost()).finish_non_exhaustive()
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
            shared.lost.fetch_add(batch.len() as u64, Ordering::Relaxed);
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
        let output = ConsoleOutput::new("serial", Box::new(Broken), &exit.guard()).unwrap();
        output.push(1);
        ends(&exit, "serial-out");
        let since = Instant::now();
        output.drain(Duration::from_millis(10));
        assert!(since.elapsed() < PATIENCE);

        let exit = Arc::new(ExitSlot::default());
        read_all("serial", Box::new(Broken), &exit.guard(), |_| true).unwrap();
        ends(&exit, "serial-in");
    }
}
