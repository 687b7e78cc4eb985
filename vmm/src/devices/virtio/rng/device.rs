//! The entropy device, which has no configuration space and no features of its own. One turn of the event loop hands out
//! at most 256 KiB, and a request gets at most 64 KiB. Where its limiter has no tokens, requests wait in the queue.

use std::io;
use std::sync::Arc;

use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::Bytes;

use super::RngMetrics;
use crate::devices::virtio::device::config_bytes;
use crate::devices::virtio::rate::{Limits, RateLimiter};
use crate::devices::virtio::{
    ActivateError, Active, Chain, Completion, ConfigBytes, DeviceKind, GuestRam, OwnEvent, VirtioDevice, Work,
};

/// Its only queue.
const REQUESTS: usize = 0;

/// Its only event: there are tokens again.
const TOKENS: u16 = 0;

/// Most bytes that one request gets: a guest that asks for more asks again.
const MAX_PER_REQUEST: usize = 64 << 10;

/// Most bytes that one turn hands out, before others on the event loop are served.
const TURN: u32 = 256 << 10;

/// Bytes taken from the host at a time.
const PIECE: usize = 4096;

/// One entropy device.
pub struct Rng {
    active: Option<Active>,
    piece: Box<[u8; PIECE]>,
    limiter: RateLimiter,
    metrics: Arc<RngMetrics>,
}

impl Rng {
    /// A device that hands out what the host's kernel gives, no faster than `limits` say. Fails where the host has no
    /// timer to spare.
    pub fn new(limits: Limits) -> io::Result<Self> {
        let limiter = RateLimiter::new(limits)?;
        Ok(Self { active: None, piece: Box::new([0; PIECE]), limiter, metrics: Arc::default() })
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<RngMetrics> {
        &self.metrics
    }
}

impl VirtioDevice for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Entropy
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn queue_count(&self, _features: u64) -> usize {
        1
    }

    fn max_queue_size(&self) -> u16 {
        64
    }

    fn config_space(&self) -> ConfigBytes {
        config_bytes([])
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, active: Active) -> Result<(), ActivateError> {
        self.active = Some(active);
        Ok(())
    }

    fn process_queue(&mut self, index: usize) -> Work {
        let Self { active: Some(active), piece, limiter, metrics } = self else {
            return Work::Done;
        };
        let mut handed_out = 0;
        active.serve(index, |memory, chain| {
            if handed_out >= TURN {
                return Completion::NextTurn;
            }
            if !limiter.is_open() {
                metrics.rate_limited.inc();
                return Completion::Later;
            }
            metrics.requests.inc();
            let filled = fill(memory, chain, piece, metrics);
            limiter.spend(filled.into());
            handed_out += filled;
            metrics.bytes.add(filled.into());
            Completion::Used(filled)
        })
    }

    fn own_events(&self) -> Vec<OwnEvent> {
        vec![OwnEvent { fd: self.limiter.timer(), token: TOKENS }]
    }

    fn process_event(&mut self, _token: u16) -> Option<usize> {
        (self.process_queue(REQUESTS) == Work::More).then_some(REQUESTS)
    }

    fn stop_queue(&mut self, index: usize) {
        if let Some(active) = &mut self.active {
            active.stop_queue(index);
        }
    }

    fn reset(&mut self) {
        self.active = None;
    }
}

/// Fills the writable buffers of a request up to the limit or the first bad one; says how many
/// bytes were written from the start on.
fn fill(memory: &GuestRam, chain: Chain<'_>, piece: &mut [u8; PIECE], metrics: &RngMetrics) -> u32 {
    let mut filled = 0;
    if chain.writable().next().is_none() {
        metrics.bad_requests.inc();
    }
    for buffer in chain.writable() {
        let mut rest = (buffer.len() as usize).min(MAX_PER_REQUEST - filled);
        let mut address = buffer.addr();
        while rest > 0 {
            let piece = &mut piece[..rest.min(PIECE)];
            if getrandom(piece).is_err() {
                metrics.host_errors.inc();
                return filled as u32;
            }
            if memory.write_slice(piece, address).is_err() {
                metrics.bad_requests.inc();
                return filled as u32;
            }
            rest -= piece.len();
            filled += piece.len();
            address.0 = address.0.wrapping_add(piece.len() as u64);
        }
    }
    filled as u32
}

/// Fills `bytes` from the host's kernel.
fn getrandom(bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        // No dependency wraps this call.
        #[allow(unsafe_code)]
        // SAFETY: `rest` is a live, writable slice of exactly that many bytes.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => done += got,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}
