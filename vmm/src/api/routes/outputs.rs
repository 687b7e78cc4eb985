//! Outputs of the process, and where they go, only before the start; and its counters for any caller.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};

use super::{Api, Refusal, extract::Checked};
use crate::{
    api::{fault::Fault, prometheus},
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

/// Choose the file that metrics go to.
#[utoipa::path(put, path = "/metrics", tag = "outputs", request_body = MetricsConfig, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn metrics(
    State(api): State<Api>,
    Checked(metrics): Checked<MetricsConfig>,
) -> Result<StatusCode, Fault> {
    api.change(|controller| controller.set_metrics(metrics)).await
}

/// All counters, for Prometheus (OpenMetrics text). In every phase; before the start it says only what
/// this process is.
#[utoipa::path(get, path = "/metrics", tag = "outputs", operation_id = "scrape_metrics", responses((status = 200, description = "OpenMetrics text", content_type = "application/openmetrics-text", body = String), Refusal))]
pub(super) async fn scrape(State(api): State<Api>) -> Result<impl IntoResponse, Fault> {
    let Json(scrape) = api.get(|controller| Ok(controller.scrape())).await?;
    let text = scrape.into_text().map_err(|_| Fault::internal("The metrics cannot be written as text."))?;
    Ok(([(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)], text))
}

/// Choose where the serial console goes.
#[utoipa::path(put, path = "/serial", tag = "outputs", request_body = SerialConfig, responses((status = 204, description = "Done"), Refusal))]
pub(super) async fn serial(
    State(api): State<Api>,
    Checked(serial): Checked<SerialConfig>,
) -> Result<StatusCode, Fault> {
    api.change(|controller| controller.set_serial(serial)).await
}
