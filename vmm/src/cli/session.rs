//! The life of a process that has a guest, the same for `run` and for Firecracker's form.
//!
//! ```text
//! signals ─▶ socket ─▶ [start what is configured] ─▶ API ─▶ wait for the end ─▶ tear down
//! ```
//!
//! The socket is made first: clients may connect at once, and are served when the API runs.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::sync::Mutex;

use super::{Outcome, memory_failure, output, signals};
use crate::{
    api::{
        control::Launcher,
        controller::{ControlError, Controller},
        logger::Logger,
        metrics::Startup,
        sentence,
        server::ApiServer,
    },
    registry::{self, Registered},
    socket::{ListeningSocket, SocketMode},
    vm::{
        config::{MemoryLimits, MetricsConfig, VmConfig},
        exit::{Exit, ExitSlot},
    },
};

/// Metrics are written this often if nobody asks, as in Firecracker.
const METRICS_PERIOD: Duration = Duration::from_secs(60);

/// What a process with a guest is told.
pub(super) struct Session<'a> {
    /// Name of the guest.
    pub(super) id: String,
    /// The log of the process.
    pub(super) logger: Logger,
    /// Where metrics go from the start, if it is said.
    pub(super) metrics: Option<MetricsConfig>,
    /// How long the start took, if that is known: asked when the API is about to be served.
    pub(super) startup: Option<&'a dyn Fn() -> Startup>,
    /// Whether the API is served.
    pub(super) is_served: bool,
    /// Socket to serve the API on, if it is said.
    pub(super) api_sock: Option<&'a Path>,
    /// The mode of its file.
    pub(super) api_sock_mode: SocketMode,
    /// Whether its file is left at the end.
    pub(super) leaves_socket: bool,
    /// Longest body of a request, in bytes.
    pub(super) max_body: usize,
    /// Start this at once.
    pub(super) config: Option<VmConfig>,
    /// Whether the host may swap the guest, whatever the configuration says.
    pub(super) allow_host_swap: bool,
    /// Say why the guest ended as JSON.
    pub(super) json: bool,
}

impl Session<'_> {
    /// Lives it.
    pub(super) fn live(self, launcher: Arc<dyn Launcher>) -> Outcome {
        let exit = Arc::new(ExitSlot::default());
        signals::watch(Arc::clone(&exit)).context("Signals cannot be handled")?;
        memory_failure::watch(self.api_sock).context("A failure of the host's memory cannot be handled")?;
        let Registered { socket, name } = if self.is_served {
            registry::serve(&self.id, self.api_sock, self.api_sock_mode)?
        } else {
            Registered::default()
        };
        let socket = if self.leaves_socket { socket.map(ListeningSocket::left) } else { socket };
        let mut controller = Controller::new(self.id, launcher, self.logger, Arc::clone(&exit));
        if let Some(metrics) = self.metrics {
            controller.set_metrics(metrics)?;
        }
        if let Some(startup) = self.startup {
            controller.set_startup(startup());
        }
        let is_configured = self.config.is_some();
        if let Some(config) = self.config {
            controller.load(config)?;
        }
        if self.allow_host_swap {
            controller
                .set_memory_limits(MemoryLimits { allow_host_swap: Some(true), ..MemoryLimits::default() })?;
        }
        if is_configured {
            controller.start()?;
        }
        let controller = Arc::new(Mutex::new(controller));
        let server = socket
            .map(|socket| ApiServer::spawn(socket, Arc::clone(&controller), self.max_body, &exit.guard()))
            .transpose()
            .context("The API cannot be served")?;
        let reason = wait(&exit, &controller);
        tracing::info!("The end: {reason}");
        drop(name);
        // The guest goes first, so that clients of its console get its last words. Other calls wait, until the server goes.
        let mut ending = controller.blocking_lock();
        warn(ending.shut_down());
        drop(server);
        Ok(output::ended(&reason, self.json))
    }
}

/// Waits for the end, and writes metrics meanwhile.
fn wait(exit: &ExitSlot, controller: &Mutex<Controller>) -> Exit {
    loop {
        if let Some(reason) = exit.wait_timeout(METRICS_PERIOD) {
            return reason;
        }
        warn(controller.blocking_lock().flush_metrics());
    }
}

fn warn(result: Result<(), ControlError>) {
    if let Err(error) = result {
        tracing::warn!("{}", sentence(&error));
    }
}
