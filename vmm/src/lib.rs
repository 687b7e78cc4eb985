//! Aerostat's monitor: machine, devices, API and command line around [`memsvc`].

#[cfg(test)]
mod allocations;
pub mod api;
pub mod arch;
pub mod bench;
pub mod cli;
pub mod devices;
pub mod heap;
mod json;
pub mod link;
pub mod registry;
pub mod socket;
pub mod swap;
pub mod vm;
