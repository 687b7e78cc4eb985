//! The balloon: its size, the guest's statistics, free page hinting.

use axum::{Json, extract::State, http::StatusCode};

use super::{
    Api, Refusal,
    extract::{Checked, CheckedOrDefault},
};
use crate::{
    api::{
        fault::Fault,
        types::{BalloonStats, BalloonStatsUpdate, BalloonUpdate, HintingStart, HintingStatus},
    },
    vm::config::BalloonConfig,
};

/// The balloon's configuration, in every phase.
#[utoipa::path(get, path = "/balloon", tag = "balloon", operation_id = "balloon", responses((status = 200, body = BalloonConfig), Refusal))]
pub(super) async fn get(State(api): State<Api>) -> Result<Json<BalloonConfig>, Fault> {
    api.get(|controller| controller.balloon().cloned()).await
}

/// Give the guest a balloon. Only before the start.
#[utoipa::path(put, path = "/balloon", tag = "balloon", operation_id = "set_balloon", request_body = BalloonConfig, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn set(
    State(api): State<Api>,
    Checked(balloon): Checked<BalloonConfig>,
) -> Result<StatusCode, Fault> {
    api.change(|controller| controller.set_balloon_config(balloon)).await
}

/// Ask the guest for another amount; does not wait for it. Only after the start.
#[utoipa::path(patch, path = "/balloon", tag = "balloon", operation_id = "update_balloon", request_body = BalloonUpdate, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn update(
    State(api): State<Api>,
    Checked(update): Checked<BalloonUpdate>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.update_balloon(update)).await
}

/// The statistics that the guest told last. Only after the start.
#[utoipa::path(get, path = "/balloon/statistics", tag = "balloon", operation_id = "balloon_stats", responses((status = 200, body = BalloonStats), Refusal))]
pub(super) async fn stats(State(api): State<Api>) -> Result<Json<BalloonStats>, Fault> {
    api.get(|controller| controller.balloon_stats()).await
}

/// Change how often the guest is asked for statistics. Only after the start.
#[utoipa::path(patch, path = "/balloon/statistics", tag = "balloon", operation_id = "update_balloon_stats", request_body = BalloonStatsUpdate, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn update_stats(
    State(api): State<Api>,
    Checked(update): Checked<BalloonStatsUpdate>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.update_balloon_stats(update)).await
}

/// Ask the guest for a list of its free pages. Only after the start.
#[utoipa::path(patch, path = "/balloon/hinting/start", tag = "balloon", request_body = Option<HintingStart>, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn hinting_start(
    State(api): State<Api>,
    CheckedOrDefault(start): CheckedOrDefault<HintingStart>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.hinting_start(start)).await
}

/// End the run of hinting. Only after the start.
#[utoipa::path(patch, path = "/balloon/hinting/stop", tag = "balloon", responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn hinting_stop(State(api): State<Api>) -> Result<StatusCode, Fault> {
    api.change(|controller| controller.hinting_stop()).await
}

/// How far the run of hinting is. Only after the start.
#[utoipa::path(get, path = "/balloon/hinting/status", tag = "balloon", responses((status = 200, body = HintingStatus), Refusal))]
pub(super) async fn hinting_status(State(api): State<Api>) -> Result<Json<HintingStatus>, Fault> {
    api.get(|controller| controller.hinting_status()).await
}
