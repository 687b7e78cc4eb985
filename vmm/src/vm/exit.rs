//! Why the process ends, and the one place where that is said.
//!
//! ```text
//! vCPU: reset ──┐
//! ACPI: off ────┤                       main thread
//! guest panic ──┼─▶ ExitSlot (first wins) ─▶ wait ─▶ tear down ─▶ exit code
//! device fault ─┤
//! SIGTERM, … ───┘
//! ```

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use memsvc::guard::Guard;

/// Why the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered itself off.
    PowerOff,
    /// The guest reset itself; a microVM does not come up again, as in Firecracker.
    Reset,
    /// The guest's kernel panicked; the text is what is known of it, maybe empty.
    Panic(String),
    /// We cannot go on; the text is one sentence.
    Error(String),
    /// The operator ended the process by this signal.
    Signal(i32),
}

impl Exit {
    /// Exit code of the process: 0 after a reset, a power-off or a signal, 1 after an error, 3
    /// after a panic of the guest.
    pub fn code(&self) -> u8 {
        match self {
            Self::PowerOff | Self::Reset | Self::Signal(_) => 0,
            Self::Error(_) => 1,
            Self::Panic(_) => 3,
        }
    }

    /// Name for machines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PowerOff => "power_off",
            Self::Reset => "reset",
            Self::Panic(_) => "panic",
            Self::Error(_) => "error",
            Self::Signal(_) => "signal",
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("The guest powered off."),
            Self::Reset => f.write_str("The guest reset itself."),
            Self::Panic(what) if what.is_empty() => f.write_str("The guest's kernel panicked."),
            Self::Panic(what) => write!(f, "The guest's kernel panicked: {what}"),
            Self::Error(what) => f.write_str(what),
            Self::Signal(number) => write!(f, "Ended by signal {number}."),
        }
    }
}

/// Holds the reason once there is one. The first reason stays: what follows is its consequence.
#[derive(Default)]
pub struct ExitSlot {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    reason: Option<Exit>,
    hooks: Vec<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for ExitSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExitSlot").field(&self.get()).finish()
    }
}

impl ExitSlot {
    /// Says why the process is to end, unless it is ending already.
    pub fn set(&self, exit: Exit) {
        let mut state = self.lock();
        state.reason.get_or_insert(exit);
        let hooks = std::mem::take(&mut state.hooks);
        drop(state);
        self.filled.notify_all();
        hooks.into_iter().for_each(|hook| hook());
    }

    /// Has this done as soon as there is a reason, by whoever gives it: it is not to wait.
    pub fn at_exit(&self, hook: impl FnOnce() + Send + 'static) {
        let mut state = self.lock();
        if state.reason.is_none() {
            state.hooks.push(Box::new(hook));
        } else {
            drop(state);
            hook();
        }
    }

    /// A guard of threads of which the first that fails is the reason.
    pub fn guard(self: &Arc<Self>) -> Guard {
        let exit = Arc::clone(self);
        Guard::new(move |why| exit.set(Exit::Error(why)))
    }

    /// The reason, if there is one by now.
    pub fn get(&self) -> Option<Exit> {
        self.lock().reason.clone()
    }

    /// Waits for the reason, at most this long.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Exit> {
        let waited = self.filled.wait_timeout_while(self.lock(), timeout, |state| state.reason.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.reason.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The slot is whole at every step, so a panic elsewhere takes nothing from it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn first_reason_wins() {
        let slot = Arc::new(ExitSlot::default());
        assert_eq!(slot.wait_timeout(Duration::ZERO), None);
        let setter = thread::spawn({
            let slot = Arc::clone(&slot);
            move || {
                slot.set(Exit::Panic("oops".into()));
                slot.set(Exit::Reset);
            }
        });
        let (done, hook) = std::sync::mpsc::channel();
        let early = done.clone();
        slot.at_exit(move || early.send(1).expect("heard"));
        let exit = slot.wait_timeout(Duration::from_secs(60));
        setter.join().expect("setter");
        assert_eq!(exit, Some(Exit::Panic("oops".into())));
        slot.at_exit(move || done.send(2).expect("heard"));
        assert_eq!(hook.iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(slot.get().map(|exit| exit.code()), Some(3));
    }
}
