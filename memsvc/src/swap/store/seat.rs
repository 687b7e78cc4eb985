//! What a store keeps of one connection.

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
    /// Whose lists of slabs it uses.
    pub(super) cpu: CpuId,
    /// What it has asked tiers for, if there are any.
    pub(super) reader: Option<Arc<Reader>>,
    /// How often room could not be made, at the time that it began to wait for some.
    pub(super) waits: Option<u64>,
}

impl Seat {
    pub(super) fn new(cpu: CpuId, codec: Codec, waker: &Arc<Waker>, tiers: Option<&Tiers>) -> Option<Self> {
        let packer = Packer::new(codec)?;
        Some(Self { packer, cpu, reader: tiers.map(|tiers| tiers.reader(waker)), waits: None })
    }

    /// Whose lists of slabs it uses.
    pub(crate) fn cpu(&self) -> CpuId {
        self.cpu
    }
}
