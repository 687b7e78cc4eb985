//! The guest's network.

use std::time::Duration;

use guest_agent::{Echoed, Flood, Flooded, Link, NetRequest, Pinged};

use super::{AgentClient, Answer, Request, bail, unexpected};

/// One method for each request.
///
/// # Errors
/// All as [`AgentClient::call`].
#[allow(clippy::missing_errors_doc, reason = "said once above")]
impl AgentClient {
    /// Brings the only interface beside `lo` up, with an address as `10.0.0.2/24`.
    pub fn net_up(&mut self, address: &str) -> anyhow::Result<Link> {
        match self.call(Request::Net(NetRequest::Up { interface: None, address: address.to_owned() }))? {
            Answer::Link(link) => Ok(link),
            other => unexpected(&other),
        }
    }

    /// Pings an address.
    pub fn net_ping(
        &mut self,
        address: &str,
        count: u32,
        interval: Duration,
        bytes: u16,
    ) -> anyhow::Result<Pinged> {
        let interval_ms = u64::try_from(interval.as_millis())?;
        let ping = NetRequest::Ping { address: address.to_owned(), count, interval_ms, bytes };
        match self.call(Request::Net(ping))? {
            Answer::Pinged(pinged) => Ok(pinged),
            other => unexpected(&other),
        }
    }

    /// Sends a pattern to an echo server: an error unless all of it came back. Gives MB/s, one way.
    pub fn net_echo(&mut self, server: &str, bytes: u64, seed: u64) -> anyhow::Result<f64> {
        let echo = NetRequest::Echo { server: server.to_owned(), bytes, seed };
        match self.call(Request::Net(echo))? {
            Answer::Echoed(Echoed { first_wrong: Some(at), .. }) => {
                bail!("what {server} sent back is wrong from byte {at} on")
            }
            Answer::Echoed(echoed) => Ok(megabytes_per_second(echoed.bytes, echoed.micros)),
            other => unexpected(&other),
        }
    }

    /// Starts a flood.
    pub fn flood_start(&mut self, kind: Flood, bytes: u16) -> anyhow::Result<()> {
        self.done(Request::Net(NetRequest::FloodStart { kind, bytes }))
    }

    /// Ends all floods.
    pub fn flood_stop(&mut self) -> anyhow::Result<Flooded> {
        match self.call(Request::Net(NetRequest::FloodStop))? {
            Answer::Flooded(flooded) => Ok(flooded),
            other => unexpected(&other),
        }
    }
}

/// Bytes per µs are MB/s.
#[allow(clippy::cast_precision_loss, reason = "bytes and µs of one transfer")]
pub(crate) fn megabytes_per_second(bytes: u64, micros: u64) -> f64 {
    bytes as f64 / micros.max(1) as f64
}
