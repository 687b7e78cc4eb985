//! The guest's parts: kernel, CPUs and memory, disks, network cards. Only before the start, but for limits.

use axum::{Json, extract::State, http::StatusCode};

use super::{
    Api, Refusal,
    extract::{Checked, Id},
};
use crate::{
    api::{
        fault::Fault,
        types::{DriveUpdate, MachineConfigUpdate, NetworkInterfaceUpdate},
    },
    vm::config::{
        BootSource, Drive, EntropyConfig, MachineConfig, MemoryLimits, NetworkInterface, WatermarksConfig,
    },
};

/// Choose kernel, initrd and command line.
#[utoipa::path(put, path = "/boot-source", tag = "configuration", request_body = BootSource, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn boot_source(
    State(api): State<Api>,
    Checked(boot): Checked<BootSource>,
) -> Result<StatusCode, Fault> {
    api.change(|controller| controller.set_boot_source(boot)).await
}

/// CPUs and memory, in every phase.
#[utoipa::path(get, path = "/machine-config", tag = "configuration", responses((status = 200, body = MachineConfig), Refusal))]
pub(super) async fn machine_config(State(api): State<Api>) -> Result<Json<MachineConfig>, Fault> {
    api.get(|controller| Ok(controller.config().machine_config.clone())).await
}

/// Choose CPUs and memory.
#[utoipa::path(put, path = "/machine-config", tag = "configuration", request_body = MachineConfig, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn set_machine_config(
    State(api): State<Api>,
    Checked(machine): Checked<MachineConfig>,
) -> Result<StatusCode, Fault> {
    api.change(|controller| controller.set_machine_config(machine)).await
}

/// Change some of CPUs and memory.
#[utoipa::path(patch, path = "/machine-config", tag = "configuration", request_body = MachineConfigUpdate, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn update_machine_config(
    State(api): State<Api>,
    Checked(update): Checked<MachineConfigUpdate>,
) -> Result<StatusCode, Fault> {
    api.change(|controller| controller.update_machine_config(update)).await
}

/// Choose how much of the memory service's memory stays free, and for whom.
#[utoipa::path(put, path = "/memory/watermarks", tag = "configuration", request_body = WatermarksConfig, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn watermarks(
    State(api): State<Api>,
    Checked(watermarks): Checked<WatermarksConfig>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.set_watermarks(watermarks)).await
}

/// Choose how much memory of the host the guest and its swap may take, and how much of it is the reserve.
#[utoipa::path(put, path = "/memory/limits", tag = "configuration", request_body = MemoryLimits, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn memory_limits(
    State(api): State<Api>,
    Checked(limits): Checked<MemoryLimits>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.set_memory_limits(limits)).await
}

/// Add a disk, or replace the one of this id.
#[utoipa::path(put, path = "/drives/{drive_id}", tag = "configuration", params(("drive_id" = String, Path, description = "The drive_id of the body")), request_body = Drive, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn drive(
    State(api): State<Api>,
    Id(id): Id,
    Checked(drive): Checked<Drive>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.set_drive(&id, drive)).await
}

/// Put another file behind a disk, tell the guest of a new size, change its limits. Only after the start. The guest should
/// not use the disk meanwhile: requests under way end on the old file.
#[utoipa::path(patch, path = "/drives/{drive_id}", tag = "configuration", params(("drive_id" = String, Path, description = "The drive_id of the body")), request_body = DriveUpdate, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn update_drive(
    State(api): State<Api>,
    Id(id): Id,
    Checked(update): Checked<DriveUpdate>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.update_drive(&id, update)).await
}

/// Add a network card, or replace the one of this id.
#[utoipa::path(put, path = "/network-interfaces/{iface_id}", tag = "configuration", params(("iface_id" = String, Path, description = "The iface_id of the body")), request_body = NetworkInterface, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn network_interface(
    State(api): State<Api>,
    Id(id): Id,
    Checked(interface): Checked<NetworkInterface>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.set_network_interface(&id, interface)).await
}

/// Change the limits of a network card. Only after the start.
#[utoipa::path(patch, path = "/network-interfaces/{iface_id}", tag = "configuration", params(("iface_id" = String, Path, description = "The iface_id of the body")), request_body = NetworkInterfaceUpdate, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn update_network_interface(
    State(api): State<Api>,
    Id(id): Id,
    Checked(update): Checked<NetworkInterfaceUpdate>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.update_network_interface(&id, update)).await
}

/// Choose how fast the guest gets random bytes. It has an entropy device without this call, too.
#[utoipa::path(put, path = "/entropy", tag = "configuration", request_body = EntropyConfig, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn entropy(
    State(api): State<Api>,
    Checked(entropy): Checked<EntropyConfig>,
) -> Result<StatusCode, Fault> {
    api.change(move |controller| controller.set_entropy(entropy)).await
}
