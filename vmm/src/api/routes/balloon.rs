//! The balloon: its size, the guest's statistics, free page hinting.

use std::time::Duration;

use axum::{
    Json,
    extract::{RawQuery, State},
    http::StatusCode,
};
use tokio::time::{sleep, timeout};

use super::{
    Api, PATIENCE, Refusal,
    extract::{Checked, CheckedOrDefault},
};
use crate::{
    api::{
        fault::Fault,
        types::{BalloonStats, BalloonStatsUpdate, BalloonUpdate, HintingStart, HintingStatus},
    },
    vm::config::BalloonConfig,
};

/// Between two looks for what the guest tells.
const LOOK: Duration = Duration::from_millis(5);

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

/// Ask the guest for another amount; does not wait for it. A guest whose driver is not there yet is told as soon as it
/// is. Only after the start.
#[utoipa::path(patch, path = "/balloon", tag = "balloon", operation_id = "update_balloon", request_body = BalloonUpdate, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn update(
    State(api): State<Api>,
    Checked(update): Checked<BalloonUpdate>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.update_balloon(update)).await
}

/// The statistics that the guest told last; one that it left out has the value of before. With `fresh=true` (ours) it is
/// asked, and has a second to tell new ones. Only after the start.
#[utoipa::path(get, path = "/balloon/statistics", tag = "balloon", operation_id = "balloon_stats", params(("fresh" = Option<bool>, Query, description = "Ask the guest now, and answer with what it tells")), responses((status = 200, body = BalloonStats), Refusal))]
pub(super) async fn stats(
    State(api): State<Api>,
    RawQuery(query): RawQuery,
) -> Result<Json<BalloonStats>, Fault> {
    match query.as_deref().unwrap_or_default() {
        "" | "fresh=false" => api.get(|controller| controller.balloon_stats()).await,
        "fresh=true" => timeout(PATIENCE, refresh(&api)).await.unwrap_or_else(|_| {
            Err(Fault::unavailable(
                "The guest was asked for statistics and told none in time: its driver is not there, or the guest is \
                 paused or busy. Try again, or leave fresh out for what it told last.",
            ))
        }),
        other => {
            let known = "write fresh=true to have the guest asked now, or leave it out";
            Err(Fault::bad_request(format!("Invalid query \"{other}\": {known}.")))
        }
    }
}

/// Asks the guest for statistics, waits until it has told some, and answers with them.
async fn refresh(api: &Api) -> Result<Json<BalloonStats>, Fault> {
    let Json(statistics) = api.get(|controller| controller.statistics()).await?;
    let before = statistics.ask();
    while statistics.told() == before {
        sleep(LOOK).await;
    }
    api.get(|controller| controller.balloon_stats()).await
}

/// Change how often the guest is asked for statistics; it is asked at once, too. Only after the start.
#[utoipa::path(patch, path = "/balloon/statistics", tag = "balloon", operation_id = "update_balloon_stats", request_body = BalloonStatsUpdate, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn update_stats(
    State(api): State<Api>,
    Checked(update): Checked<BalloonStatsUpdate>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.update_balloon_stats(update)).await
}

/// Ask the guest for a list of its free pages, which go back to the host. A known hazard: Linux may take a page back that
/// it has named, when it runs short of memory, and find it empty; do not hint a guest that may run short. Free page
/// reporting has no such gap. Only after the start.
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
