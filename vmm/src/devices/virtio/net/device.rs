//! The network card: frames between its two queues and its back end.
//!
//! ```text
//!   kick of RX, event of the back end, tokens to receive ─▶ turn: receive, then what waits to be sent
//!   kick of TX, tokens to send ───────────────────────────▶ turn: send, after what is behind to be received
//! ```

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::held::Held;
use super::outgoing::Layout;
use super::{Inbox, NetBackend, NetControl, NetMetrics, RX, TURN, TX, Transmitted, config, feature};
use crate::devices::virtio::device::config_bytes;
use crate::devices::virtio::rate::{Limits, RateLimiter};
use crate::devices::virtio::{
    ActivateError, Active, Completion, ConfigBytes, DeviceKind, OwnEvent, VirtioDevice, Work,
};

/// Entries in a queue.
const QUEUE_SIZE: u16 = 256;

/// Tokens to receive again.
const RX_TOKENS: u16 = 0;
/// Tokens to send again.
const TX_TOKENS: u16 = 1;
/// The operator asks for new limits.
const ASKED: u16 = 2;
/// Events of the back end, from here on.
const BACKEND: u16 = 3;

/// How the operator wants the network card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetConfig {
    /// Its address.
    pub mac: [u8; 6],
    /// Bytes in the largest packet, if the guest is to be told; at least 68 (section 5.1.4.1).
    pub mtu: Option<u16>,
    /// Limits on what the guest receives.
    pub rx_limits: Limits,
    /// Limits on what the guest sends.
    pub tx_limits: Limits,
}

/// One network card.
pub struct Net {
    mac: [u8; 6],
    mtu: Option<u16>,
    backend: Box<dyn NetBackend>,
    active: Option<Active>,
    held: Held,
    layout: Layout,
    rx_limiter: RateLimiter,
    tx_limiter: RateLimiter,
    control: Arc<NetControl>,
    /// The back end may have more for the guest than one turn took.
    is_behind: bool,
    /// The guest may have more for the back end than it took.
    has_unsent: bool,
    metrics: Arc<NetMetrics>,
}

impl Net {
    /// A network card on `backend`. Fails where the host has no timer to spare.
    pub fn new(config: NetConfig, backend: impl NetBackend + 'static) -> io::Result<Self> {
        Ok(Self {
            mac: config.mac,
            mtu: config.mtu,
            backend: Box::new(backend),
            active: None,
            held: Held::new(QUEUE_SIZE),
            layout: Layout::default(),
            rx_limiter: RateLimiter::new(config.rx_limits)?,
            tx_limiter: RateLimiter::new(config.tx_limits)?,
            control: Arc::new(NetControl::new()?),
            is_behind: false,
            has_unsent: false,
            metrics: Arc::default(),
        })
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<NetMetrics> {
        &self.metrics
    }

    /// The operator's side of it.
    pub fn control(&self) -> &Arc<NetControl> {
        &self.control
    }

    /// Receives or sends, as `index` says, and whatever is left over of the other.
    fn turn(&mut self, index: usize) -> Work {
        let Self { active: Some(active), held, rx_limiter, metrics, .. } = self else {
            return Work::Done;
        };
        if !active.interrupt.is_running() {
            return Work::Done;
        }
        let (features, merged) = (active.features, active.has(feature::MRG_RXBUF));
        let Some([rx, mut tx]) = active.pair([RX, TX]) else {
            return Work::Done;
        };
        let mut inbox = Inbox::new(rx, held, rx_limiter, metrics, merged);
        let Self { backend, layout, tx_limiter, .. } = self;
        let mut work = Work::Done;
        if index == RX || self.is_behind {
            backend.receive(&mut inbox);
        }
        if index == TX || self.has_unsent {
            self.has_unsent = false;
            let mut sent = 0;
            work = tx.serve(|memory, chain| {
                if sent >= TURN {
                    return Completion::NextTurn;
                }
                if !tx_limiter.is_open() {
                    metrics.tx_rate_limited.inc();
                    return Completion::Later;
                }
                let Some(frame) = layout.parse(memory, chain, features) else {
                    metrics.tx_bad_frames.inc();
                    return Completion::Used(0);
                };
                sent += frame.len();
                match backend.transmit(&frame, &mut inbox) {
                    Transmitted::Sent => {
                        tx_limiter.spend(frame.len() as u64);
                        metrics.tx_packets.inc();
                        metrics.tx_bytes.add(frame.len() as u64);
                    }
                    Transmitted::Full => metrics.tx_dropped_full.inc(),
                    Transmitted::Refused => metrics.tx_dropped_refused.inc(),
                    Transmitted::Later => {
                        self.has_unsent = true;
                        return Completion::Later;
                    }
                }
                Completion::Used(0)
            });
            self.has_unsent |= work == Work::More;
        }
        self.is_behind = inbox.finish(&mut tx);
        // What was left over comes first in the next turn. A frame that waits for room waits for that of the
        // guest, too, which kicks or lets tokens come.
        if self.is_behind { Work::More } else { work }
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Network
    }

    fn features(&self) -> u64 {
        self.backend.features() & feature::OFFLOADS
            | 1 << feature::MAC
            | u64::from(self.mtu.is_some()) << feature::MTU
            | 1 << feature::MRG_RXBUF
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn queue_count(&self, _features: u64) -> usize {
        2
    }

    fn max_queue_size(&self) -> u16 {
        QUEUE_SIZE
    }

    fn config_space(&self) -> ConfigBytes {
        config_bytes(config::space(self.mac, self.mtu))
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        self.metrics.bad_config_writes.inc();
    }

    fn activate(&mut self, mut active: Active) -> Result<(), ActivateError> {
        active.features = feature::with_what_they_need(active.features);
        self.backend.set_offloads(active.features & feature::OFFLOADS)?;
        self.active = Some(active);
        Ok(())
    }

    fn process_queue(&mut self, index: usize) -> Work {
        match index {
            RX | TX => self.turn(index),
            _ => Work::Done,
        }
    }

    fn own_events(&self) -> Vec<OwnEvent> {
        let timers = [(self.rx_limiter.timer(), RX_TOKENS), (self.tx_limiter.timer(), TX_TOKENS)];
        let asked = [(self.control.event(), ASKED)];
        let backend = self.backend.events().into_iter().zip(BACKEND..);
        let event = |(fd, token): (RawFd, u16)| OwnEvent { fd, token };
        timers.into_iter().chain(asked).chain(backend).map(event).collect()
    }

    fn process_event(&mut self, token: u16) -> Option<usize> {
        if token == ASKED {
            // Its timers say when it goes on.
            let asked = self.control.take();
            self.rx_limiter.change(asked.rx);
            self.tx_limiter.change(asked.tx);
            return None;
        }
        let index = if token == TX_TOKENS { TX } else { RX };
        (self.turn(index) == Work::More).then_some(index)
    }

    fn stop_queue(&mut self, index: usize) {
        if let Some(active) = &mut self.active {
            active.stop_queue(index);
        }
        if index == RX {
            self.held.clear();
        }
    }

    fn reset(&mut self) {
        self.active = None;
        self.held.clear();
        (self.is_behind, self.has_unsent) = (false, false);
        self.backend.reset();
    }
}
