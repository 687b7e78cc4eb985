//! Where frames lie and how they move: arena, guest space, userfaultfd. The unsafe part.
//!
//! ```text
//!   guest space   ┌────────┬────────┬───────────────┐   userfaultfd MISSING: a touch of an
//!                 │ absent │  huge  │ split: f . f  │   absent page waits for the fault handler
//!                 └────────┴───▲────┴──▲────────│───┘
//!                   whole block│       │frame   │ UFFDIO_MOVE, both ways
//!   arena         ┌────────┬───┴────┬──┴────────▼───┐   home slots; registered for MOVE only,
//!                 │ Buddy  │ Stash  │ broken block  │   its own faults are the kernel's
//!                 └────────┴────────┴───────────────┘
//! ```

pub(crate) mod arena;
pub(crate) mod bell;
mod copy;
#[cfg(test)]
mod faults;
pub(crate) mod guest;
pub mod host;
pub(crate) mod mapping;
pub(crate) mod objects;
pub(crate) mod pagemap;
pub mod regions;
pub(crate) mod uffd;
