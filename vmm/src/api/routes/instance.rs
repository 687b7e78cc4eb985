//! The guest as a whole: what it is, start, pause.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};

use super::{Api, Refusal, extract::Checked};
use crate::{
    api::{
        controller::VERSION,
        fault::Fault,
        openapi,
        types::{Action, InstanceInfo, Version, VmUpdate},
    },
    vm::config::VmConfig,
};

/// What this process is and what its guest is doing.
#[utoipa::path(get, path = "/", tag = "instance", responses((status = 200, body = InstanceInfo), Refusal))]
pub(super) async fn info(State(api): State<Api>) -> Result<Json<InstanceInfo>, Fault> {
    api.get(|controller| Ok(controller.info())).await
}

/// The version of this program.
#[utoipa::path(get, path = "/version", tag = "instance", responses((status = 200, body = Version)))]
pub(super) async fn version() -> Json<Version> {
    Json(Version { firecracker_version: VERSION.to_owned() })
}

/// Stop the guest's vCPUs or let them go on. Only after the start.
#[utoipa::path(patch, path = "/vm", tag = "instance", request_body = VmUpdate, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn set_state(
    State(api): State<Api>,
    Checked(update): Checked<VmUpdate>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.set_state(update.state)).await
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
