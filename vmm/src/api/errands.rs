//! Calls that take long: one at a time, beside the controller, and only as long as somebody wants them.
//!
//! ```text
//!   waits for its turn ─▶ runs on the second helper thread ─▶ answer
//!           │                          │
//!           └── client hangs up, or the server ends ──▶ stops where it can
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::Mutex, task::JoinError};

/// Where they queue.
#[derive(Clone, Default)]
pub(super) struct Errands {
    turn: Arc<Mutex<()>>,
    /// The server ends.
    are_over: Arc<AtomicBool>,
}

/// Says when it is dropped that nobody waits any more.
struct Client(Arc<AtomicBool>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Errands {
    /// Runs this once those before it have ended. It is to ask again and again whether it goes on.
    ///
    /// # Errors
    /// It panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        errand: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // Kept until the errand ends, even if its client has gone before: it has the thread until then.
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (is_gone, are_over) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self.are_over));
        let client = Client(Arc::clone(&is_gone));
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            errand(&|| !is_gone.load(Ordering::Relaxed) && !are_over.load(Ordering::Relaxed))
        })
        .await;
        drop(client);
        done
    }

    /// Stops them.
    pub(super) fn end(&self) {
        self.are_over.store(true, Ordering::Relaxed);
    }
}
