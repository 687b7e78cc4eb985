//! Aerostat's monitor: machine, devices, API and command line around [`memsvc`].

pub mod api;
pub mod arch;
pub mod bench;
pub mod cli;
pub mod devices;
pub mod link;
pub mod vm;
