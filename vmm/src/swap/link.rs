//! The swap link: a network card of the guest's with nobody on it but this process, which serves the guest's
//! swap there.
//!
//! ```text
//!   guest's NBD client ─▶ network card ─▶ frame, copied once ─▶ peer (TCP/IP) ─▶ NBD connection ─▶ store
//!                              ▲                                  │
//!                              └───── the guest's own buffers ◀───┘ or the timer, when nothing comes
//! ```
//! All of it runs on the thread that serves swap and the balloon. Buffers for frames and sockets are there from the start; a connection
//! takes some 20 KiB when it is made, and 512 KiB more for pages that come from tiers, if there are any. Of
//! connections there are 16 at the most. What those that have gone asked tiers for stays until it is answered: 16 MiB
//! for each tier at the most, and then who asks waits.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memsvc::swap::{Connection, Swap, Waker, nbd};
use memsvc::{MemoryService, seldom};
use vmm_sys_util::timerfd::TimerFd;

use crate::devices::virtio::net::{
    Header, Inbox, MAX_FRAME, NetBackend, NetConfig, Outgoing, Room, Transmitted, feature,
};
use crate::link::{Config, LinkMetrics, Offloads, Peer, Service, Stream, Transmit};

/// Name of the guest's card, as an `iface_id`.
pub const CARD: &str = "swap-link";
/// Address of the guest's card: locally administered, and "SWAP". The link has no other machines on it, so
/// all guests have the same.
pub const GUEST_MAC: [u8; 6] = [0x02, b'S', b'W', b'A', b'P', 2];
/// Address of our end.
const OUR_MAC: [u8; 6] = [0x02, b'S', b'W', b'A', b'P', 1];
/// Where the guest finds its swap: link-local (RFC 3927), since nobody routes there.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 83, 1);
/// Bits of the link's subnet, in which the guest is 169.254.83.2.
const PREFIX: u8 = 30;
/// Connections of one guest. Its client has one for each CPU at the most, and a reboot may leave as many
/// that are half-open.
const CONNECTIONS: usize = 16;
/// Bytes of the largest packet. A page that comes back is one segment then, and Linux has the acknowledgement of
/// a single segment wait for the next request (`__tcp_ack_snd_check`, net/ipv4/tcp_input.c).
const MTU: u16 = 9000;

/// The swap link's end of the network card.
pub struct SwapLink {
    peer: Peer<Served>,
    memory: Arc<MemoryService>,
    /// Of a frame on its way to the peer.
    frame: Box<[u8]>,
    start: Instant,
    /// Rings when a connection that waited for a tier can go on.
    waker: Arc<Waker>,
    timer: TimerFd,
    /// When the timer rings, if it does.
    rings: Option<Duration>,
}

/// Why there is no swap link.
#[derive(Debug, thiserror::Error)]
#[error("The swap link cannot be made")]
pub struct NoLink(#[source] io::Error);

impl SwapLink {
    /// A link to a swap device in the arena of `memory`. Its card is as [`Self::card`] says.
    ///
    /// # Errors
    /// The host has no timer to spare.
    pub fn new(memory: &Arc<MemoryService>, swap: &Swap) -> Result<Self, NoLink> {
        let config = Config {
            mac: OUR_MAC,
            address: ADDRESS,
            prefix: PREFIX,
            port: nbd::PORT,
            connections: CONNECTIONS,
            mtu: MTU,
            seed: fastrand::u64(..),
        };
        let waker = Arc::new(Waker::new().map_err(NoLink)?);
        let peer =
            Peer::new(config, Served::new(swap, &waker)).map_err(|error| NoLink(io::Error::other(error)))?;
        let timer = TimerFd::new().map_err(|error| NoLink(error.into()))?;
        let frame = vec![0; MAX_FRAME].into();
        Ok(Self { peer, memory: Arc::clone(memory), frame, start: Instant::now(), waker, timer, rings: None })
    }

    /// How the guest sees the card.
    pub fn card() -> NetConfig {
        NetConfig { mac: GUEST_MAC, mtu: Some(MTU), ..NetConfig::default() }
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<LinkMetrics> {
        self.peer.metrics()
    }

    /// Lets the peer send what it has, and sees to it that it is asked again in time.
    fn poll(&mut self, inbox: &mut Inbox<'_>) {
        let now = self.start.elapsed();
        self.peer.poll(now, &mut Buffers(inbox));
        let goes_on = self.peer.service().goes_on.swap(false, Ordering::Relaxed);
        let next = if goes_on { Some(now) } else { self.peer.poll_at(now) };
        // A timer that rings too early costs less than to set it for each frame.
        let Some(next) = next.filter(|next| self.rings.is_none_or(|rings| *next < rings || rings <= now))
        else {
            return;
        };
        let after = next.saturating_sub(now).max(AT_ONCE);
        match self.timer.reset(after, None) {
            Ok(()) => self.rings = Some(next),
            Err(error) => seldom!(error, %error, "the swap link's timer cannot be set"),
        }
    }
}

/// A timer of zero does not ring.
const AT_ONCE: Duration = Duration::from_nanos(1);

impl NetBackend for SwapLink {
    fn features(&self) -> u64 {
        1 << feature::CSUM | 1 << feature::GUEST_CSUM | 1 << feature::HOST_TSO4 | 1 << feature::GUEST_TSO4
    }

    fn set_offloads(&mut self, features: u64) -> io::Result<()> {
        let has = |bit: u32| features & 1 << bit != 0;
        self.peer.reset(Offloads {
            csum: has(feature::CSUM),
            guest_csum: has(feature::GUEST_CSUM),
            guest_tso4: has(feature::GUEST_TSO4),
        });
        Ok(())
    }

    fn transmit(&mut self, frame: &Outgoing<'_>, inbox: &mut Inbox<'_>) -> Transmitted {
        let len = frame.copy_to(&mut self.frame);
        let bytes = self.frame.get(..len).unwrap_or_default();
        let is_short = self.memory.is_short();
        self.peer.receive(frame.header(), bytes, is_short, self.start.elapsed());
        self.poll(inbox);
        Transmitted::Sent
    }

    fn receive(&mut self, inbox: &mut Inbox<'_>) {
        // The timer need not be read: its event is edge-triggered, and setting it clears it.
        if self.rings.is_some_and(|rings| rings <= self.start.elapsed()) {
            self.rings = None;
        }
        self.waker.clear();
        self.poll(inbox);
    }

    fn events(&self) -> Vec<RawFd> {
        vec![self.timer.as_raw_fd(), self.waker.as_fd().as_raw_fd()]
    }

    fn reset(&mut self) {
        self.peer.reset(Offloads::default());
    }
}

/// The guest's buffers, as the peer asks for them.
struct Buffers<'a, 'b>(&'a mut Inbox<'b>);

impl Transmit for Buffers<'_, '_> {
    fn has_room(&mut self, len: usize) -> bool {
        self.0.room(len) == Room::Enough
    }

    fn transmit(&mut self, header: &Header, frame: &[u8]) {
        let is_put = self.0.put(header, frame);
        debug_assert!(is_put, "there was room");
    }
}

/// What answers on the link: the swap device.
pub(crate) struct Served {
    swap: Swap,
    waker: Arc<Waker>,
    /// A connection is at something long.
    goes_on: Arc<AtomicBool>,
}

impl Served {
    pub(crate) fn new(swap: &Swap, waker: &Arc<Waker>) -> Self {
        Self { swap: swap.clone(), waker: Arc::clone(waker), goes_on: Arc::default() }
    }
}

impl Service for Served {
    type Stream = Answer;

    fn connect(&mut self) -> Option<Answer> {
        Some(Answer { connection: self.swap.connect(&self.waker), goes_on: Arc::clone(&self.goes_on) })
    }
}

/// One connection to it.
pub(crate) struct Answer {
    connection: Connection,
    goes_on: Arc<AtomicBool>,
}

impl Stream for Answer {
    fn receive(&mut self, bytes: &[u8]) -> usize {
        self.connection.receive(bytes)
    }

    fn send(&mut self, out: &mut [u8]) -> usize {
        let sent = self.connection.send(out);
        if self.connection.goes_on() {
            self.goes_on.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn last_word(&mut self) {
        self.connection.last_word();
    }

    fn is_waiting(&self) -> bool {
        self.connection.is_waiting()
    }

    fn is_over(&self) -> bool {
        self.connection.is_over()
    }
}
