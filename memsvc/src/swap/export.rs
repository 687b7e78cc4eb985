//! A store under a name: what NBD sessions are served from.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::codec::{Codec, Packer};
use super::nbd::NbdError;
use super::session::{Disk, Exports, Fetch, Page, Stored};
use super::stats::NbdCounters;
use super::store::Store;
use crate::core::units::CpuId;

/// One export; there is no other for those who are connected to it.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) store: Store,
    pub(crate) codec: Codec,
    pub(crate) counters: NbdCounters,
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

/// An export as one connection uses it.
#[derive(Debug)]
pub(crate) struct ExportDisk {
    export: Arc<Export>,
    packer: Packer,
    cpu: CpuId,
}

impl Exports for Arc<Export> {
    type Disk = ExportDisk;

    fn pages(&self, name: &[u8]) -> Option<u64> {
        self.is_called(name).then(|| self.store.pages())
    }

    fn open(&self, name: &[u8]) -> Option<ExportDisk> {
        if !self.is_called(name) {
            return None;
        }
        let turn = self.next_cpu.fetch_add(1, Ordering::Relaxed) % self.cpus.max(1);
        let cpu = CpuId(self.first_cpu + turn);
        Some(ExportDisk { export: Arc::clone(self), packer: Packer::new(self.codec)?, cpu })
    }

    fn list(&self) -> Vec<(String, String)> {
        vec![(self.name.clone(), "swap of one guest".to_owned())]
    }

    fn counters(&self) -> &NbdCounters {
        &self.counters
    }
}

impl Disk for ExportDisk {
    fn pages(&self) -> u64 {
        self.export.store.pages()
    }

    fn write(&mut self, page: u64, data: &Page) -> Result<Stored, NbdError> {
        self.export.store.write(self.cpu, &mut self.packer, page, data).map(|()| Stored::Now)
    }

    fn fetch(&mut self, _pages: Range<u64>, _next: bool) -> Fetch {
        Fetch::Ready
    }

    fn read(&mut self, page: u64, into: &mut Page) -> Result<(), NbdError> {
        self.export.store.read(&mut self.packer, page, into)
    }

    fn is_hole(&self, pages: Range<u64>) -> bool {
        self.export.store.is_hole(pages)
    }

    fn erase(&mut self, pages: Range<u64>) {
        self.export.store.erase(self.cpu, pages);
    }
}
