//! From HTTP to the controller: one small function per verb and path, grouped as operators think.
//!
//! ```text
//! request ─▶ counted ─▶ final slash off ─▶ body read, up to its limit ─▶ handler of verb and path ─▶ controller
//! ```

mod absent;
mod balloon;
mod body;
mod compaction;
mod config;
mod console;
mod extract;
mod instance;
mod memory;
mod outputs;
mod swap;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{Method, StatusCode, Uri},
    middleware::{self, Next},
    response::Response,
    routing::{get, patch, put},
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::JoinError,
    time::timeout,
};
use tokio_util::task::TaskTracker;
use utoipa::OpenApi;

use super::{
    controller::{ControlError, Controller},
    errands::Errands,
    fault::Fault,
    metrics::Requests,
    types::FaultMessage,
};

/// How long a call waits for what does not come, before it is refused.
const PATIENCE: Duration = Duration::from_millis(800);

/// What handlers hold.
#[derive(Clone)]
struct Api {
    controller: Arc<Mutex<Controller>>,
    errands: Errands,
    /// Consoles that clients have.
    consoles: TaskTracker,
}

/// What every call can answer when it is refused.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "only its derived schema is used")]
enum Refusal {
    /// The request is wrong, or comes in the wrong phase; the body says why.
    #[response(status = 400)]
    BadRequest(FaultMessage),
    /// What the call waits for does not come within a second; the body says what that is. The call changed nothing and
    /// may be made again.
    #[response(status = 503)]
    Unavailable(FaultMessage),
}

impl Api {
    /// Calls the controller on a thread that may block, and answers with what it says. Refuses the call if another
    /// one has the controller for too long: none waits for a device there, but starting a guest may take long.
    async fn get<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Controller) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<Json<T>, Fault> {
        Self::take(self.turn().await?, call).await
    }

    /// The controller, when all calls before have had it.
    async fn turn(&self) -> Result<OwnedMutexGuard<Controller>, Fault> {
        timeout(PATIENCE, Arc::clone(&self.controller).lock_owned()).await.map_err(|_| busy())
    }

    /// One turn of the controller.
    async fn take<T: Send + 'static>(
        mut turn: OwnedMutexGuard<Controller>,
        call: impl FnOnce(&mut Controller) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<Json<T>, Fault> {
        // The controller is whole between its steps; a panic in one call does not end the API.
        let called = tokio::task::spawn_blocking(move || call(&mut turn));
        Ok(Json(called.await.map_err(failed_inside)??))
    }

    /// Does what takes long, beside the controller.
    async fn errand<T: Send + 'static>(
        &self,
        errand: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    ) -> Result<Json<T>, Fault> {
        self.errands.run(errand).await.map(Json).map_err(failed_inside)
    }

    /// The same for a call that answers nothing.
    async fn change(
        &self,
        call: impl FnOnce(&mut Controller) -> Result<(), ControlError> + Send + 'static,
    ) -> Result<StatusCode, Fault> {
        self.get(call).await.map(|Json(())| StatusCode::NO_CONTENT)
    }
}

/// Somebody else has the controller for too long.
fn busy() -> Fault {
    Fault::unavailable(
        "Another call is still at work, such as the start of the guest: wait for its answer, then try again.",
    )
}

fn failed_inside(_: JoinError) -> Fault {
    Fault::internal("The call failed inside Aerostat: see its log.")
}

/// All of it, with what is done to a request before its path is looked at. Bodies have `max_body` bytes at most.
pub(super) fn router(
    controller: Arc<Mutex<Controller>>,
    errands: Errands,
    consoles: TaskTracker,
    requests: Arc<Requests>,
    max_body: usize,
) -> Router {
    Router::new()
        .fallback_service(routes().with_state(Api { controller, errands, consoles }))
        .layer(middleware::from_fn_with_state(max_body, body::read_first))
        .layer(middleware::map_request(without_final_slash))
        .layer(middleware::from_fn_with_state(requests, count))
}

/// Counts the call.
async fn count(State(requests): State<Arc<Requests>>, request: Request, next: Next) -> Response {
    let tally = requests.count(request.method().as_str(), request.uri().path());
    let answer = next.run(request).await;
    if let (Some(tally), false) = (tally, answer.status().is_success()) {
        tally.fails.inc();
    }
    answer
}

/// Firecracker takes a path with a final slash for the one without.
async fn without_final_slash(mut request: Request) -> Request {
    let uri = request.uri();
    if let Some(path) = uri.path().strip_suffix('/').filter(|path| !path.is_empty()) {
        let shorter = match uri.query() {
            Some(query) => format!("{path}?{query}").parse::<Uri>(),
            None => path.parse(),
        };
        if let Ok(shorter) = shorter {
            *request.uri_mut() = shorter;
        }
    }
    request
}

/// All routes.
fn routes() -> Router<Api> {
    let routes = Router::new()
        .route("/", get(instance::info))
        .route("/version", get(instance::version))
        .route("/vm", patch(instance::set_state))
        .route("/vm/config", get(instance::config))
        .route("/console", get(console::attach))
        .route("/actions", put(instance::act))
        .route("/memory", get(memory::report))
        .route("/memory/buddy", get(memory::buddy))
        .route("/memory/types", get(memory::types))
        .route("/memory/zone", get(memory::zone))
        .route("/memory/slabs", get(memory::slabs))
        .route("/memory/compaction", get(compaction::info).put(compaction::tune))
        .route("/memory/compact", put(compaction::compact))
        .route("/memory/reclaim", put(compaction::reclaim))
        .route("/memory/watermarks", put(config::watermarks))
        .route("/memory/limits", put(config::memory_limits))
        .route("/openapi.json", get(instance::openapi))
        .route("/boot-source", put(config::boot_source))
        .route(
            "/machine-config",
            get(config::machine_config).put(config::set_machine_config).patch(config::update_machine_config),
        )
        .route("/drives/{drive_id}", put(config::drive).patch(config::update_drive))
        .route(
            "/network-interfaces/{iface_id}",
            put(config::network_interface).patch(config::update_network_interface),
        )
        .route("/entropy", put(config::entropy))
        .route("/balloon", get(balloon::get).put(balloon::set).patch(balloon::update))
        .route("/balloon/statistics", get(balloon::stats).patch(balloon::update_stats))
        .route("/balloon/hinting/start", patch(balloon::hinting_start))
        .route("/balloon/hinting/stop", patch(balloon::hinting_stop))
        .route("/balloon/hinting/status", get(balloon::hinting_status))
        .route("/swap", get(swap::get).put(swap::set))
        .route("/logger", put(outputs::logger))
        .route("/metrics", get(outputs::scrape).put(outputs::metrics))
        .route("/serial", put(outputs::serial));
    absent::add_to(routes).fallback(unknown).method_not_allowed_fallback(unknown)
}

async fn unknown(method: Method, uri: Uri) -> Fault {
    let path = uri.path();
    Fault::bad_request(format!("Invalid request method and/or path: {method} {path}"))
}

/// The description of all of it.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Aerostat",
        description = "The API of a microVM, on its unix socket: Firecracker's; and /memory, /memory/*, GET /metrics."
    ),
    paths(
        instance::info,
        instance::version,
        instance::set_state,
        instance::config,
        instance::act,
        console::attach,
        instance::openapi,
        memory::report,
        memory::buddy,
        memory::types,
        memory::zone,
        memory::slabs,
        compaction::info,
        compaction::tune,
        compaction::compact,
        compaction::reclaim,
        swap::get,
        swap::set,
        config::boot_source,
        config::machine_config,
        config::set_machine_config,
        config::update_machine_config,
        config::watermarks,
        config::memory_limits,
        config::drive,
        config::update_drive,
        config::network_interface,
        config::update_network_interface,
        config::entropy,
        balloon::get,
        balloon::set,
        balloon::update,
        balloon::stats,
        balloon::update_stats,
        balloon::hinting_start,
        balloon::hinting_stop,
        balloon::hinting_status,
        outputs::logger,
        outputs::metrics,
        outputs::scrape,
        outputs::serial,
    )
)]
pub(super) struct ApiDoc;
