//! Real guests, started and driven by two client crates of others, which are made for Firecracker.
//!
//! ```text
//!  by_fctools ───┐                  ┌─ stdio ─▶ guest agent
//!                ├─▶ firecracker ───┤
//!  by_firepilot ─┘   (our monitor)  └─ API socket
//! ```
//!
//! What the crates cannot tell, such as what the guest sees, is asked of the guest agent and of `GET /metrics`.

mod by_fctools;
mod by_firepilot;
mod stage;

pub use by_fctools::{by_api as fctools_by_its_api, by_file as fctools_by_a_configuration_file};
pub use by_firepilot::whole_life as firepilot;
