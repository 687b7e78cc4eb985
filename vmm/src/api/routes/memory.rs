//! Memory: what the service has and did, what its allocator says of itself. Only after the start.

use axum::{Json, extract::State};
use memsvc::stats::{BuddyInfo, SlabInfo, TypeInfo, ZoneInfo};

use super::{Api, Refusal};
use crate::api::{fault::Fault, types::MemoryReport};

/// What the memory service has and did. Only after the start.
#[utoipa::path(get, path = "/memory", tag = "memory", operation_id = "memory", responses((status = 200, body = MemoryReport), Refusal))]
pub(super) async fn report(State(api): State<Api>) -> Result<Json<MemoryReport>, Fault> {
    api.get(|controller| controller.memory()).await
}

/// Free chunks by order, and how fragmented memory is. Only after the start.
#[utoipa::path(get, path = "/memory/buddy", tag = "memory", operation_id = "memory_buddy", responses((status = 200, body = BuddyInfo), Refusal))]
pub(super) async fn buddy(State(api): State<Api>) -> Result<Json<BuddyInfo>, Fault> {
    api.get(|controller| Ok(controller.running()?.buddy_info())).await
}

/// Free chunks by migrate type, frames by page type, charges. Only after the start.
#[utoipa::path(get, path = "/memory/types", tag = "memory", operation_id = "memory_types", responses((status = 200, body = TypeInfo), Refusal))]
pub(super) async fn types(State(api): State<Api>) -> Result<Json<TypeInfo>, Fault> {
    api.get(|controller| Ok(controller.running()?.type_info())).await
}

/// Watermarks, reserve, per-CPU lists, counters. Only after the start.
#[utoipa::path(get, path = "/memory/zone", tag = "memory", operation_id = "memory_zone", responses((status = 200, body = ZoneInfo), Refusal))]
pub(super) async fn zone(State(api): State<Api>) -> Result<Json<ZoneInfo>, Fault> {
    api.get(|controller| Ok(controller.running()?.zone_info())).await
}

/// The slab caches. Only after the start.
#[utoipa::path(get, path = "/memory/slabs", tag = "memory", operation_id = "memory_slabs", responses((status = 200, body = SlabInfo), Refusal))]
pub(super) async fn slabs(State(api): State<Api>) -> Result<Json<SlabInfo>, Fault> {
    api.get(|controller| Ok(controller.running()?.slab_info())).await
}
