//! The API's thread: an HTTP server on the socket with one event loop. Two helper threads are for calls that
//! block, and for one that takes long. All sleep while nobody calls; the helpers end after a while, so that
//! memory stays small.

use std::{io, os::unix::net::UnixListener as StdListener, sync::Arc, thread::JoinHandle, time::Duration};

use axum::Router;
use memsvc::guard::Guard;
use tokio::{
    net::UnixListener,
    runtime::Runtime,
    sync::{Mutex, oneshot},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::{connections::Bounded, controller::Controller, errands::Errands, routes};
use crate::socket::{ListeningSocket, SocketFile};

/// Longest body of a request in bytes if nobody says otherwise, as in Firecracker.
pub const MAX_BODY: usize = 51_200;
/// Stack of each thread, in bytes; only what is touched is resident.
const STACK: usize = 1 << 20;
/// One for calls of the controller, which come one at a time, and one for an errand.
const HELPERS: usize = 2;
/// How long a console, and then a call in progress, may go on when the process ends.
const GRACE: Duration = Duration::from_millis(200);

/// A running server. Dropping it removes the socket and ends the thread.
#[derive(Debug)]
pub struct ApiServer {
    file: Option<SocketFile>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Serves `controller` on `socket`, in a thread named "api"; bodies of requests have `max_body` bytes at most. A call that
    /// panics is answered by 500; a panic of the thread itself ends the guest, which nobody could reach any more.
    pub fn spawn(
        socket: ListeningSocket,
        controller: Arc<Mutex<Controller>>,
        max_body: usize,
        guard: &Guard,
    ) -> io::Result<Self> {
        let (errands, consoles) = (Errands::default(), TaskTracker::new());
        let requests = controller.blocking_lock().requests();
        let router = routes::router(controller, errands.clone(), consoles.clone(), requests, max_body);
        let (listener, file) = socket.into_parts();
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(HELPERS)
            .thread_name("api-call")
            .thread_stack_size(STACK)
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = guard.spawn("api", STACK, "the API does not answer any more", move || {
            serve(runtime, listener, router, errands, consoles, stopped)
        })?;
        Ok(Self { file: Some(file), stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.file = None;
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic was told.
            let _ = thread.join();
        }
    }
}

/// Serves until the sender of `stopped` is dropped.
fn serve(
    runtime: Runtime,
    listener: StdListener,
    router: Router,
    errands: Errands,
    consoles: TaskTracker,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let served = runtime.block_on(async {
        let listener = UnixListener::from_std(listener)?;
        let served = tokio::select! {
            served = async { axum::serve(Bounded::new(listener), router).await } => served,
            _ = stopped => Ok(()),
        };
        errands.end();
        // The guest has ended: clients of its console get its last words. One that does not read is not waited for.
        consoles.close();
        let _ = timeout(GRACE, consoles.wait()).await;
        served
    });
    runtime.shutdown_timeout(GRACE);
    served
}
