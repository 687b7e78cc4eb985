//! A connection's part of a store.

use std::sync::Arc;

use super::reader::Reader;
use super::tiers::Tiers;
use crate::core::units::CpuId;
use crate::swap::codec::{Codec, Packer};
use crate::swap::waker::Waker;

/// A connection's place at a store.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(super) packer: Packer,
    /// The per-CPU lists of slabs that the connection uses.
    pub(super) cpu: CpuId,
    /// The connection's requests to tiers, if there are any.
    pub(super) reader: Option<Arc<Reader>>,
    /// The number of times that room could not be made, when the connection began to wait for room.
    pub(super) waits: Option<u64>,
}

impl Seat {
    pub(super) fn new(cpu: CpuId, codec: Codec, waker: &Arc<Waker>, tiers: Option<&Tiers>) -> Option<Self> {
        let packer = Packer::new(codec)?;
        Some(Self { packer, cpu, reader: tiers.map(|tiers| tiers.reader(waker)), waits: None })
    }

    /// The per-CPU lists of slabs that the connection uses.
    pub(crate) fn cpu(&self) -> CpuId {
        self.cpu
    }
}
