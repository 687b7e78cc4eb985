//! `GET /metrics`: what `GET /` and `GET /memory*` say and what the devices count, as text for
//! Prometheus (OpenMetrics 1.0.0).
//!
//! ```text
//!   Controller ─▶ Scrape ─▶ one table of families per source ─▶ text
//!                           (name, kind, help, how it is read)
//! ```
//!
//! Nothing is kept between two scrapes. Names, help and labels of a source stand in one table:
//! `memory`, `allocator`, `compaction`, `swap`, `balloon`, `devices`.

mod allocator;
mod balloon;
mod compaction;
mod devices;
mod family;
mod memory;
mod swap;

use std::fmt;

use memsvc::stats::{BuddyInfo, CompactionInfo, SlabInfo, TypeInfo, ZoneInfo};
use memsvc::swap::SwapStats;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::MetricType,
    registry::Registry,
};
use serde_json::{Map, Value};

use super::{
    controller::VERSION,
    types::{GuestStats, InstanceInfo, MemoryReport},
};

/// What the text is, for the header of the answer.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All that is known. Each part is of one moment; the guest runs on from one to the next.
#[derive(Debug)]
pub struct Scrape {
    /// What this process is and what its guest is doing.
    pub info: InstanceInfo,
    /// The rest, once there is a guest.
    pub running: Option<Running>,
}

/// What is known of a guest that was started.
#[derive(Debug)]
pub struct Running {
    /// As `GET /memory`.
    pub memory: MemoryReport,
    /// What the guest told last; nothing if it is not asked.
    pub guest: GuestStats,
    /// As `GET /memory/buddy`.
    pub buddy: BuddyInfo,
    /// As `GET /memory/types`.
    pub types: TypeInfo,
    /// As `GET /memory/zone`.
    pub zone: ZoneInfo,
    /// As `GET /memory/slabs`.
    pub slabs: SlabInfo,
    /// As `GET /memory/compaction`.
    pub compaction: CompactionInfo,
    /// As `GET /swap`, if there is a swap device.
    pub swap: Option<SwapStats>,
    /// The counters of all devices, by device.
    pub devices: Map<String, Value>,
}

impl Scrape {
    /// All of it as text.
    ///
    /// # Errors
    /// None that is known: writing to a string does not fail.
    pub fn into_text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut encoder;
        self.info(to)?;
        let Some(running) = &self.running else { return Ok(()) };
        family::write(to, memory::FAMILIES, &running.memory.memory)?;
        family::write(to, allocator::BUDDY, &running.buddy)?;
        family::write(to, allocator::TYPES, &running.types)?;
        family::write(to, allocator::ZONE, &running.zone)?;
        family::write(to, allocator::SLABS, &running.slabs)?;
        family::write(to, compaction::FAMILIES, &running.compaction)?;
        if let Some(swap) = &running.swap {
            family::write(to, swap::FAMILIES, swap)?;
        }
        if let Some(balloon) = &running.memory.balloon_device {
            family::write(to, balloon::DEVICE, balloon)?;
            family::write(to, balloon::GUEST, &running.guest)?;
        }
        devices::write(to, &running.devices)
    }
}

impl Scrape {
    /// `aerostat_info`: the program, the guest and its state, as labels.
    fn info(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let InstanceInfo { id, state, .. } = &self.info;
        let help = "This program, its guest, and what the guest is doing";
        to.encode_descriptor("aerostat", help, None, MetricType::Info)?.encode_info(&[
            ("version", VERSION),
            ("id", id),
            ("state", state.name()),
        ])
    }
}

#[cfg(test)]
mod tests;
