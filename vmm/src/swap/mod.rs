//! Swap devices, served: to guests on the swap link, to others on a socket.

mod halt;
#[cfg(test)]
pub(crate) mod known;
mod link;
mod server;

#[cfg(test)]
pub(crate) use link::Served;
pub use link::{CARD, GUEST_MAC, NoLink, SwapLink};
pub use server::{Address, ServeError, Server};
