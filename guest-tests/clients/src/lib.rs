//! Real guests, started and driven by two client crates of others, which are made for Firecracker.
//!
//! ```text
//!  by_fctools ───┐                  ┌─ stdio ─▶ guest agent
//!                ├─▶ firecracker ───┤
//!  by_firepilot ─┘   (our monitor)  └─ API socket
//! ```
//!
//! The guest agent and `GET /metrics` tell the rest, such as the memory that the guest sees.

mod by_fctools;
mod by_firepilot;
mod stage;

pub use by_fctools::{by_api as fctools_by_its_api, by_file as fctools_by_a_configuration_file};
pub use by_firepilot::whole_life as firepilot;
