//! Compaction: how it is tuned, what it did, and whole blocks on request.

use axum::{Json, extract::State, http::StatusCode};
use memsvc::stats::{Compacted, CompactionInfo, Reclaimed};

use super::{
    Api, Refusal,
    extract::{Checked, CheckedOrDefault},
};
use crate::{
    api::{
        fault::Fault,
        types::{CompactRequest, ReclaimRequest},
    },
    vm::config::CompactionConfig,
};

/// How compaction is tuned, and what it did. Only after the start.
#[utoipa::path(get, path = "/memory/compaction", tag = "memory", operation_id = "compaction", responses((status = 200, body = CompactionInfo), Refusal))]
pub(super) async fn info(State(api): State<Api>) -> Result<Json<CompactionInfo>, Fault> {
    api.get(|controller| controller.compaction_info()).await
}

/// Tune compaction, in every phase; what is left out stays as it is.
#[utoipa::path(put, path = "/memory/compaction", tag = "memory", operation_id = "tune_compaction", request_body = CompactionConfig, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn tune(
    State(api): State<Api>,
    Checked(change): Checked<CompactionConfig>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.tune_compaction(change)).await
}

/// Make all the whole blocks that can be made. Answers when that is done, and stops if the client hangs up.
/// Only after the start.
#[utoipa::path(put, path = "/memory/compact", tag = "memory", operation_id = "compact", request_body = Option<CompactRequest>, responses((status = 200, body = Compacted), Refusal))]
pub(super) async fn compact(
    State(api): State<Api>,
    CheckedOrDefault(CompactRequest {}): CheckedOrDefault<CompactRequest>,
) -> Result<Json<Compacted>, Fault> {
    let Json(compaction) = api.get(|controller| controller.compaction()).await?;
    api.errand(move |goes_on| compaction.compact(goes_on)).await
}

/// Give memory that the guest does not use back to the host, in whole blocks. Answers when that is done, and
/// stops if the client hangs up. Only after the start.
#[utoipa::path(put, path = "/memory/reclaim", tag = "memory", operation_id = "reclaim", request_body = ReclaimRequest, responses((status = 200, body = Reclaimed), Refusal))]
pub(super) async fn reclaim(
    State(api): State<Api>,
    Checked(request): Checked<ReclaimRequest>,
) -> Result<Json<Reclaimed>, Fault> {
    let Json((compaction, bytes)) = api.get(move |controller| controller.reclaim(request)).await?;
    api.errand(move |goes_on| compaction.reclaim(bytes, goes_on)).await
}
