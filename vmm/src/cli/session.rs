//! The life of a process that has a guest, the same for `run` and for Firecracker's form.
//!
//! ```text
//! signals ─▶ socket ─▶ [start what is configured] ─▶ API ─▶ wait for the end ─▶ tear down
//! ```
//!
//! The socket is made first: clients may connect at once, and are served when the API runs.

use std::{
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;

use super::{Outcome, output, signals};
use crate::{
    api::{
        control::Launcher,
        controller::Controller,
        logger::Logger,
        server::ApiServer,
        socket::ApiSocket,
    },
    vm::{config::VmConfig, exit::ExitSlot},
};

/// Metrics are written this often if nobody asks, as in Firecracker.
const METRICS_PERIOD: Duration = Duration::from_secs(60);

/// What a process with a guest is told.
pub(super) struct Session<'a> {
    /// Name of the guest.
    pub(super) id: String,
    /// Socket to serve the API on, if any.
    pub(super) api_sock: Option<&'a Path>,
    /// Start this at once.
    pub(super) config: Option<VmConfig>,
    /// Say why the guest ended as JSON.
    pub(super) json: bool,
}

impl Session<'_> {
    /// Lives it.
    pub(super) fn live(self, launcher: Arc<dyn Launcher>) -> Outcome {
        let exit = Arc::new(ExitSlot::default());
        signals::watch(Arc::clone(&exit)).context("Signals cannot be handled")?;
        let logger = Logger::new(&self.id);
        logger.install();
        let socket = self.api_sock.map(ApiSocket::bind).transpose()?;
        let mut controller = Controller::new(self.id, launcher, logger, Arc::clone(&exit));
        if let Some(config) = self.config {
            controller.load(config)?;
            controller.start()?;
        }
        let controller = Arc::new(Mutex::new(controller));
        let server = socket
            .map(|socket| ApiServer::spawn(socket, Arc::clone(&controller)))
            .transpose()
            .context("The API cannot be served")?;
        let code = wait(&exit, &controller, self.json);
        drop(server);
        Ok(code)
    }
}

/// Waits for the end, writes metrics meanwhile, and tears the guest down.
fn wait(exit: &ExitSlot, controller: &Mutex<Controller>, json: bool) -> ExitCode {
    let lock = || controller.lock().unwrap_or_else(PoisonError::into_inner);
    let warn = |result: Result<(), _>| {
        if let Err(error) = result {
            tracing::warn!("{}", crate::api::sentence(&error));
        }
    };
    loop {
        if let Some(reason) = exit.wait_timeout(METRICS_PERIOD) {
            warn(lock().shut_down());
            return output::ended(&reason, json);
        }
        warn(lock().flush_metrics());
    }
}
