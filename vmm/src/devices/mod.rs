//! (being written)
pub mod legacy;
