//! What the guest sees as hardware: virtio devices, a few legacy ones, and the loop that serves them.
//!
//! ```text
//!   vCPU threads ── mmio exits ──▶ virtio/transport ──┐
//!   event loop ──── queue kicks ─▶ events ────────────┼──▶ one device, behind its own mutex
//!   API thread ──── target, hints ────────────────────┘
//! ```
//!
//! Locks are taken in one order: transport, then device. The event loop and the API take the
//! device's lock only.

pub mod events;
pub mod legacy;
pub mod virtio;
