//! Swap devices, served: to guests on the swap link, to others on a socket.

mod link;
mod server;

pub use link::{ADDRESS, GUEST_ADDRESS, GUEST_MAC, NoLink, PREFIX, SwapLink};
pub use server::{Address, ServeError, Server};
