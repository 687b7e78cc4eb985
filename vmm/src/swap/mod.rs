//! Swap devices, served.

mod server;

pub use server::{Address, ServeError, Server};
