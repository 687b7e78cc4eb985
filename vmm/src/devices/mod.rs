//! The guest's hardware: virtio devices, a few legacy ones, and the loop that serves them.
//!
//! ```text
//!   vCPU threads ── mmio exits ──▶ virtio/transport ──┐
//!   event loop ──── queue kicks ─▶ events ────────────┴──▶ one device, behind its own mutex
//!                                                                     │
//!   API thread ──── target, hints, limits ─────────────────▶ its face, behind a short lock
//! ```
//!
//! Locks are taken in one order: transport, device, face. The event loop takes the device's lock first, the API only
//! that of the face: a device may hold its own for as long as guest memory lets it wait.

pub mod events;
pub mod legacy;
pub mod virtio;
