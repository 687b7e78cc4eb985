//! The virtual machine: its configuration, its parts and their life. (The rest is being written.)

pub mod config;
pub mod exit;
