//! The guest as a whole: what it is, start, pause.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};

use tokio::time::{Instant, timeout_at};

use super::{Api, PATIENCE, Refusal, busy, extract::Checked, failed_inside};
use crate::{
    api::{
        controller::{API_VERSION, Controller},
        fault::Fault,
        openapi,
        types::{Action, InstanceInfo, Version, VmUpdate, WantedState},
    },
    vm::config::VmConfig,
};

/// How long a call that pauses the guest has the controller at a time.
const PAUSE_STEP: Duration = Duration::from_millis(20);
/// How long it waits for its last turn after that: other calls are before it.
const LAST_TURN: Duration = Duration::from_millis(100);
const _: () = assert!((PATIENCE.as_millis() + LAST_TURN.as_millis()) < 1000, "a second is promised");

/// What this process is and what its guest is doing.
#[utoipa::path(get, path = "/", tag = "instance", responses((status = 200, body = InstanceInfo), Refusal))]
pub(super) async fn info(State(api): State<Api>) -> Result<Json<InstanceInfo>, Fault> {
    api.get(|controller| Ok(controller.info())).await
}

/// The version of Firecracker whose API this is.
#[utoipa::path(get, path = "/version", tag = "instance", responses((status = 200, body = Version)))]
pub(super) async fn version() -> Json<Version> {
    Json(Version { firecracker_version: API_VERSION.to_owned() })
}

/// Stop the guest's vCPUs or let them go on. Only after the start. A vCPU that waits for a device or for memory cannot be
/// stopped: if that lasts for most of a second, the answer is 503, and all of them run on.
#[utoipa::path(patch, path = "/vm", tag = "instance", request_body = VmUpdate, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn set_state(
    State(api): State<Api>,
    Checked(update): Checked<VmUpdate>,
) -> Result<StatusCode, Fault> {
    match update.state {
        WantedState::Resumed => api.change(|controller| controller.resume()).await,
        // To its end, though the client may hang up meanwhile: the guest is not to stay half paused.
        WantedState::Paused => tokio::spawn(pause(api)).await.map_err(failed_inside)?,
    }
}

/// Waits for the guest to pause, step by step, so that other calls are answered meanwhile. If it does not, it goes on.
async fn pause(api: Api) -> Result<StatusCode, Fault> {
    let end = Instant::now() + PATIENCE;
    let mut turn = api.turn().await?;
    loop {
        let Json(is_paused) = Api::take(turn, |controller| controller.pause(PAUSE_STEP)).await?;
        if is_paused {
            return Ok(StatusCode::NO_CONTENT);
        }
        // Those who wait for their turn come first.
        let next = Arc::clone(&api.controller).lock_owned();
        turn = match timeout_at(end + LAST_TURN, next).await {
            Ok(turn) if Instant::now() < end => turn,
            Ok(turn) => {
                return Api::take(turn, |controller| controller.give_up_pause())
                    .await
                    .map(|Json(())| StatusCode::NO_CONTENT);
            }
            Err(_) => {
                // A pause that was begun has to be ended, however long that takes. The client does not wait for that, and
                // hears that the guest is not paused: so all vCPUs run on, though the last may have stopped meanwhile.
                tokio::spawn(async move {
                    Api::take(api.controller.lock_owned().await, Controller::resume).await
                });
                return Err(busy());
            }
        };
    }
}

/// The whole configuration.
#[utoipa::path(get, path = "/vm/config", tag = "instance", responses((status = 200, body = VmConfig), Refusal))]
pub(super) async fn config(State(api): State<Api>) -> Result<Json<VmConfig>, Fault> {
    api.get(|controller| Ok(controller.config().clone())).await
}

/// Start the guest, write metrics, press Ctrl+Alt+Del.
#[utoipa::path(put, path = "/actions", tag = "instance", request_body = Action, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn act(
    State(api): State<Api>,
    Checked(action): Checked<Action>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.act(action.action_type)).await
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "instance", responses((status = 200, description = "An OpenAPI document", body = Object)))]
pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], openapi::CHECKED_IN)
}
