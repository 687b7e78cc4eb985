//! A store under a name: what NBD sessions, and disks, are served from.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use super::codec::Codec;
use super::nbd::NbdError;
use super::session::{Disk, Exports, Fetch, Page, Stored};
use super::stats::{NbdCounters, SwapLatencies};
use super::store::{Evictor, Seat, Store};
use super::waker::Waker;
use crate::core::units::CpuId;

/// One export; there is no other for those who are connected to it.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) store: Arc<Store>,
    /// Makes room in it, if there are tiers.
    pub(crate) _evictor: Option<Evictor>,
    pub(crate) codec: Codec,
    pub(crate) counters: NbdCounters,
    pub(crate) latencies: SwapLatencies,
    /// When it was made.
    pub(crate) since: Instant,
    /// Connections take turns with the lists of so many CPUs, from this one on.
    pub(crate) cpus: u8,
    pub(crate) first_cpu: u8,
    pub(crate) next_cpu: AtomicU8,
}

impl Export {
    /// The empty name is the default export.
    fn is_called(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }
}

/// The exports that one connection may have.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) export: Arc<Export>,
    pub(crate) waker: Arc<Waker>,
}

/// An export as one connection uses it.
#[derive(Debug)]
pub(crate) struct ExportDisk {
    export: Arc<Export>,
    seat: Seat,
}

impl ExportDisk {
    /// Where it is counted what is asked for.
    pub(crate) fn counters(&self) -> &NbdCounters {
        &self.export.counters
    }
}

impl Exports for Offer {
    type Disk = ExportDisk;

    fn pages(&self, name: &[u8]) -> Option<u64> {
        self.export.is_called(name).then(|| self.export.store.pages())
    }

    fn open(&self, name: &[u8]) -> Option<ExportDisk> {
        let export = &self.export;
        if !export.is_called(name) {
            return None;
        }
        let turn = export.next_cpu.fetch_add(1, Ordering::Relaxed) % export.cpus.max(1);
        let cpu = CpuId(export.first_cpu + turn);
        let seat = export.store.seat(cpu, export.codec, &self.waker)?;
        Some(ExportDisk { export: Arc::clone(export), seat })
    }

    fn list(&self) -> Vec<(String, String)> {
        vec![(self.export.name.clone(), "swap of one guest".to_owned())]
    }

    fn counters(&self) -> &NbdCounters {
        &self.export.counters
    }
}

impl Disk for ExportDisk {
    fn pages(&self) -> u64 {
        self.export.store.pages()
    }

    fn write(&mut self, page: u64, data: &Page) -> Result<Stored, NbdError> {
        self.export.store.write(&mut self.seat, page, data)
    }

    fn fetch(&mut self, pages: Range<u64>, next: bool) -> Fetch {
        self.export.store.fetch(&self.seat, pages, next)
    }

    fn read(&mut self, page: u64, into: &mut Page) -> Result<(), NbdError> {
        self.export.store.read(&mut self.seat, page, into)
    }

    fn is_hole(&self, pages: Range<u64>) -> bool {
        self.export.store.is_hole(pages)
    }

    fn erase(&mut self, pages: Range<u64>) {
        self.export.store.erase(self.seat.cpu(), pages);
    }

    fn now(&self) -> Duration {
        self.export.since.elapsed()
    }

    fn latencies(&self) -> &SwapLatencies {
        &self.export.latencies
    }
}
