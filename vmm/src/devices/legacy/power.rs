//! The end of the guest, as the devices and CPUs see it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The end of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEnd {
    /// It powered itself off.
    PowerOff,
    /// It reset itself.
    Reset,
    /// It reset itself after its kernel panicked; the panic's message.
    Panic(String),
    /// It cannot go on; a sentence that says why.
    Error(String),
}

/// Told of the end of the guest, from a CPU's thread. May be called more than once (two CPUs can fail
/// at a time); the first call is the truth.
type EndSink = Box<dyn Fn(GuestEnd) + Send + Sync>;

/// Where power switch, reset line, panic message and failures of CPUs come together.
pub struct Power {
    sink: EndSink,
    ended: AtomicBool,
    /// The first panic message that went over a console.
    panic: Mutex<Option<String>>,
}

impl Power {
    /// All that happens is told to `sink`.
    pub fn new(sink: impl Fn(GuestEnd) + Send + Sync + 'static) -> Self {
        Self { sink: Box::new(sink), ended: AtomicBool::new(false), panic: Mutex::new(None) }
    }

    /// The guest turned itself off.
    pub fn power_off(&self) {
        self.end(GuestEnd::PowerOff);
    }

    /// The guest pulled its reset line. With a panic message before, that is what it means.
    pub fn reset(&self) {
        self.end(self.panic().map_or(GuestEnd::Reset, GuestEnd::Panic));
    }

    /// The guest cannot go on. With a panic message before, that is why.
    pub fn failed(&self, why: String) {
        self.end(self.panic().map_or(GuestEnd::Error(why), GuestEnd::Panic));
    }

    /// Whether the guest has ended: its CPUs are to stay out.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn end(&self, end: GuestEnd) {
        self.ended.store(true, Ordering::Release);
        (self.sink)(end);
    }

    /// A console has seen the guest's kernel panic; the guest goes on until it resets.
    pub(super) fn panicked(&self, message: String) {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
    }

    /// The panic message that went over a console, if one did.
    pub fn panic(&self) -> Option<String> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Power").field("panic", &self.panic()).finish_non_exhaustive()
    }
}
