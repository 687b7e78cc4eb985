//! What the process writes, and where. Only before the start.

use axum::{extract::State, http::StatusCode};

use super::{Api, Refusal, extract::Checked};
use crate::{
    api::fault::Fault,
    vm::config::{LoggerConfig, MetricsConfig, SerialConfig},
};

/// Choose where the log goes and what is in it.
#[utoipa::path(put, path = "/logger", tag = "outputs", request_body = LoggerConfig, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn logger(
    State(api): State<Api>,
    Checked(logger): Checked<LoggerConfig>,
) -> Result<StatusCode, Fault> {
    api.change(|controller| controller.set_logger(logger)).await
}

/// Choose where metrics go.
#[utoipa::path(put, path = "/metrics", tag = "outputs", request_body = MetricsConfig, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn metrics(
    State(api): State<Api>,
    Checked(metrics): Checked<MetricsConfig>,
) -> Result<StatusCode, Fault> {
    api.change(|controller| controller.set_metrics(metrics)).await
}

/// Choose where the serial console goes.
#[utoipa::path(put, path = "/serial", tag = "outputs", request_body = SerialConfig, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn serial(
    State(api): State<Api>,
    Checked(serial): Checked<SerialConfig>,
) -> Result<StatusCode, Fault> {
    api.change(|controller| controller.set_serial(serial)).await
}
