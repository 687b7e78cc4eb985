//! smoltcp's network device, one frame at a time: [`Ingress`] holds a frame from the guest, [`Egress`] takes
//! one for it.

use std::num::NonZeroUsize;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

use super::LinkMetrics;
use super::config::{Config, Offloads};
use super::filter::ETHERNET;
use super::header::Checksums;
use super::outgoing::{LONGEST, Outgoing};
use super::replies::Replies;

/// What smoltcp is told of the device. It can be had before there is anything to send or receive.
#[derive(Clone, Debug)]
pub(super) struct Offered(DeviceCapabilities);

impl Offered {
    /// TCP checksums of what comes have been verified by the filter.
    pub(super) fn new(config: &Config, offloads: Offloads) -> Self {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = usize::from(config.mtu) + ETHERNET;
        caps.checksum.tcp = if offloads.guest_csum { Checksum::None } else { Checksum::Tx };
        if offloads.guest_csum && offloads.guest_tso4 {
            caps.segmentation.tcpv4 = NonZeroUsize::new(LONGEST);
        }
        Self(caps)
    }

    /// Bytes of the longest frame on the wire.
    pub(super) fn longest_frame(&self) -> usize {
        self.0.max_transmission_unit
    }

    /// Who computes the TCP checksums of what is sent.
    pub(super) fn checksums(&self) -> Checksums {
        if self.0.checksum.tcp.tx() { Checksums::Done } else { Checksums::LeftToGuest }
    }
}

/// A frame from the guest, and where the answer to it goes.
pub(super) struct Ingress<'a> {
    pub(super) frame: Option<&'a [u8]>,
    pub(super) replies: &'a mut Replies,
    pub(super) offered: &'a Offered,
    pub(super) metrics: &'a LinkMetrics,
}

/// Where the next frame for the guest is made. To be used once, and when the guest has room for an ordinary frame: a
/// longer one goes out in pieces, or waits.
pub(super) struct Egress<'a> {
    pub(super) outgoing: &'a mut Outgoing,
    pub(super) offered: &'a Offered,
}

/// The frame that came.
pub(super) struct Received<'a>(&'a [u8]);

/// A place among the answers.
pub(super) struct Reply<'a>(&'a mut Replies, &'a LinkMetrics);

/// The place of the frame that goes out.
pub(super) struct Sent<'a>(&'a mut Outgoing);

impl Device for Ingress<'_> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Reply<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Reply<'_>)> {
        Some((Received(self.frame.take()?), Reply(self.replies, self.metrics)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Reply<'_>> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.offered.0.clone()
    }
}

impl Device for Egress<'_> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Sent<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sent<'_>)> {
        None
    }

    /// Never refuses: smoltcp 0.14 forgets a fast retransmission for which it gets no token, and never sends
    /// that segment again.
    fn transmit(&mut self, _: Instant) -> Option<Sent<'_>> {
        // ARP requests come without metadata.
        self.outgoing.segment = None;
        Some(Sent(self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.offered.0.clone()
    }
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl TxToken for Reply<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let (place, kept) = self.0.push(len);
        if !kept {
            self.1.replies_dropped.inc();
        }
        write(place)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        write(self.0.put(len))
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.0.segment = meta.segmentation_offload_size;
    }
}

/// smoltcp asks what the device can do when it is set up, before there are frames.
impl Device for Offered {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sent<'_>)> {
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<Sent<'_>> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.0.clone()
    }
}
