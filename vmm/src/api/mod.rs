//! The API: Firecracker's REST interface on a unix socket, and our own `/memory`, `/memory/*` and
//! `GET /metrics`.
//!
//! ```text
//! client ─▶ socket ─▶ server ─▶ routes ─▶ Controller ─▶ Launcher, RunningVm (vm/)
//!                     (axum)    (parse)   (phases)      (do)
//! ```
//!
//! [`types`] is the contract; `openapi` writes it down. [`control`] is what the rest of the monitor
//! must offer, [`controller`] decides what may be done when, `errands` are the calls that take long,
//! [`logger`] and [`metrics`] write whole [lines] to the files the operator named, [`client`] is the other end of
//! the socket.

pub mod client;
mod connections;
pub mod control;
pub mod controller;
mod errands;
mod fault;
mod lines;
pub mod logger;
pub mod metrics;
pub mod openapi;
pub mod prometheus;
mod routes;
pub mod server;
pub mod types;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub use fault::sentence;
