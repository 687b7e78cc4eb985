//! The guest's swap device.

use axum::{Json, extract::State, http::StatusCode};

use super::{Api, Refusal, extract::Checked};
use crate::{
    api::{fault::Fault, types::SwapReport},
    vm::config::SwapConfig,
};

/// Give the guest a swap device, on a network card of its own. Only before the start.
#[utoipa::path(put, path = "/swap", tag = "configuration", operation_id = "set_swap", request_body = SwapConfig, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn set(
    State(api): State<Api>,
    Checked(swap): Checked<SwapConfig>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.set_swap(swap)).await
}

/// What the swap device stores, and what the guest asked for. Only after the start.
#[utoipa::path(get, path = "/swap", tag = "memory", operation_id = "swap", responses((status = 200, body = SwapReport), Refusal))]
pub(super) async fn get(State(api): State<Api>) -> Result<Json<SwapReport>, Fault> {
    api.get(|controller| controller.swap()).await
}
