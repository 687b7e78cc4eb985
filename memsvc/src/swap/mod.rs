//! Swap for guests: an NBD server, or a disk, whose pages lie in memory, as small as they can be kept.
//!
//! ```text
//!   bytes of a connection ─▶ session (NBD, no I/O) ─┬─▶ export ─▶ store ─▶ objects in movable slabs
//!   requests of a disk ────▶ disk ──────────────────┘
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `nbd` | the protocol's bytes |
//! | `session` | one connection, a state machine |
//! | `disk` | requests of a disk, in whole pages |
//! | `export` | a store under a name |
//! | `store` | where each page is |
//! | `tier` | what is below the store: files, other servers |
//! | `codec` | pages made smaller |
//!
//! A [`Connection`] neither waits nor does I/O: whoever has a socket, or a TCP stack, moves bytes from and to
//! it. So does whoever has the memory of a [`SwapDisk`]'s requests. Only tiers have threads.

mod codec;
mod disk;
mod export;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod nbd;
mod session;
mod stats;
mod store;
mod tier;
mod waker;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Instant;

pub use codec::Codec;
pub use disk::{DiskCommand, DiskData, DiskRequest, DiskStep, SwapDisk};
pub use stats::{NbdStats, StoreStats, SwapLatency, SwapStats, TierStats};
pub use tier::{AddressError, ConnectError, NbdServer, RemoteStats, TierConfig, TierOpenError};
pub use waker::Waker;

use crate::core::units::{BLOCK_SIZE, CpuId, FRAME_SIZE, FRAMES_PER_BLOCK};
use crate::core::watermark::Watermarks;
use crate::guard::Guard;
use crate::space::guest::OUTSIDE;
use crate::space::objects::Objects;
use export::{Export, Offer};
use session::Session;
use stats::{NbdCounters, SwapLatencies};
use store::{Evictor, Level, Limits, RECORD_FRAMES, Released, Store, Tiers};

/// A swap device.
#[derive(Clone, Debug)]
pub struct SwapConfig {
    /// Its name as an NBD export; the default export is the same.
    pub name: String,
    /// Its size, a multiple of 4 KiB.
    pub bytes: u64,
    /// Most memory for what is stored, packed.
    pub memory: u64,
    /// How pages are packed.
    pub codec: Codec,
    /// Where pages go that do not fit into memory, the first that has room for them.
    pub tiers: Vec<TierConfig>,
}

impl SwapConfig {
    /// Blocks that an arena needs for it: slabs are never quite full, and each size class has some of its
    /// own. What is not used is address space only.
    pub(crate) fn arena_blocks(&self) -> u32 {
        let bytes = self.memory.saturating_add(self.memory / 4).saturating_add(SLACK);
        u32::try_from(bytes.div_ceil(BLOCK_SIZE as u64)).unwrap_or(u32::MAX)
    }

    fn limits(&self, reserve: Option<u64>) -> Limits {
        let records = if self.tiers.is_empty() { 0 } else { RECORD_FRAMES };
        let touched = reserve.map_or(0, |frames| touched(frames.saturating_sub(records.into())));
        Limits { pages: self.bytes / FRAME_SIZE as u64, bytes: self.memory, touched }
    }
}

/// For slabs of size classes that are hardly used: 119 of them, of at most eight frames, for a few CPUs.
const SLACK: u64 = 64 << 20;

/// Frames of the reserve that storing pages takes at once, if nothing is released but what each takes the place of:
/// one for the page and one for that, since one thread stores a page at a time.
const STORING: u64 = 2;
// There are more in the least reserve that the formula gives.
const _: () = assert!(Watermarks::for_arena(FRAMES_PER_BLOCK as u64).min >= 16 * STORING);

/// Pages of the guest's memory that the thread which serves swap may have to touch at a time: a ring of receive buffers, or
/// what is read from the disk. Any of them may be absent, and then it takes a frame.
const TOUCHED: u64 = 256;

/// Frames that are left for that, of so many of the reserve: of a small one the half.
fn touched(frames: u64) -> u32 {
    (frames.saturating_sub(STORING) / 2).min(TOUCHED) as u32
}

/// A swap device.
#[derive(Clone, Debug)]
pub struct Swap {
    export: Arc<Export>,
}

/// Why there is no swap device.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The kernel has no address space for it.
    #[error("There is no address space for the swap device: give it less memory")]
    NoAddressSpace(#[source] io::Error),
    /// No thread, or nothing random.
    #[error("The swap device cannot be started")]
    Resource(#[source] io::Error),
    /// A directory cannot have a tier's file.
    #[error(transparent)]
    File(#[from] TierOpenError),
    /// A server cannot be a tier.
    #[error(transparent)]
    Server(#[from] ConnectError),
}

/// Threads whose slabs do not get in each other's way.
const CPUS: u8 = 8;

impl Swap {
    /// Frames of the reserve that are for pages that leave for a tier.
    pub(crate) fn record_frames(&self) -> u32 {
        self.export.store.record_frames()
    }

    /// A device with memory of its own, in no guest's arena: for tools. `guard` is told when one of its threads fails.
    ///
    /// # Errors
    /// The kernel has no address space for it, or a tier cannot be had.
    pub fn standalone(config: &SwapConfig, guard: &Guard) -> Result<Self, SwapError> {
        // Slabs are never quite full, and each CPU and size class has some: address space costs nothing.
        let room = u64::from(config.arena_blocks()) * BLOCK_SIZE as u64;
        let objects = Objects::standalone(room, CPUS).map_err(SwapError::NoAddressSpace)?;
        Self::new(config, Arc::new(objects), Box::new(|| {}), 0..CPUS, None, guard)
    }

    /// A device in a guest's arena. The table of slots is made at once. `released` is called when pages have
    /// been released, so that what is free may be given back; it must not wait. `reserve` is what there is, in frames,
    /// when all other memory is used; none if it never is.
    ///
    /// # Errors
    /// A tier cannot be had.
    pub(crate) fn in_arena(
        config: &SwapConfig,
        objects: Arc<Objects>,
        released: Released,
        reserve: Option<u64>,
        guard: &Guard,
    ) -> Result<Self, SwapError> {
        // One thread serves all connections of a guest.
        let swap = Self::new(config, objects, released, OUTSIDE.0..OUTSIDE.0 + 1, reserve, guard)?;
        swap.export.store.prepare();
        Ok(swap)
    }

    /// Connections take turns with the lists of these CPUs.
    fn new(
        config: &SwapConfig,
        objects: Arc<Objects>,
        released: Released,
        cpus: Range<u8>,
        reserve: Option<u64>,
        guard: &Guard,
    ) -> Result<Self, SwapError> {
        let limits = config.limits(reserve);
        let open = |tier| Level::open(tier, limits.pages, guard);
        let levels = config.tiers.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let room = levels.iter().map(Level::pages).sum::<u64>().min(limits.pages);
        if let Some(mib) = too_little(limits.bytes, room) {
            let room = room >> 8;
            tracing::warn!(
                "of {room} MiB on tiers only {mib} can be used: give swap 8 MiB of memory for each GiB"
            );
        }
        let kept = u64::from(RECORD_FRAMES + limits.touched);
        let bytes = |frames: u64| frames.saturating_sub(kept).saturating_mul(FRAME_SIZE as u64);
        if let Some(mib) = reserve.and_then(|frames| too_little(bytes(frames), room)) {
            let room = room >> 8;
            tracing::warn!(
                "of {room} MiB on tiers {mib} can be used at the least, when all other memory is in use: \
                 give the reserve (min_free_kib) 8 MiB for each GiB, and 2 MiB more"
            );
        }
        let tiers = match levels.is_empty() {
            true => None,
            false => Some(Tiers::new(levels, limits.bytes).map_err(SwapError::Resource)?),
        };
        let store = Arc::new(Store::new(limits, objects, released, tiers));
        let first_cpu = cpus.start;
        let evictor = Evictor::spawn(&store, CpuId(first_cpu), guard).map_err(SwapError::Resource)?;
        let export = Export {
            name: config.name.clone(),
            store,
            _evictor: evictor,
            codec: config.codec,
            counters: NbdCounters::default(),
            latencies: SwapLatencies::default(),
            since: Instant::now(),
            cpus: cpus.end - first_cpu,
            first_cpu,
            next_cpu: AtomicU8::new(0),
        };
        Ok(Self { export: Arc::new(export) })
    }

    /// A new connection. The waker rings when it is worth calling [`Connection::send`] again because a page
    /// has come from a tier, or a tier has made room.
    pub fn connect(&self, waker: &Arc<Waker>) -> Connection {
        Connection(Session::new(self.offer(waker)))
    }

    /// The same as a disk, for one driver; its requests that are to wait go on when the waker has rung. `None` when there is
    /// no memory for it.
    pub fn disk(&self, waker: &Arc<Waker>) -> Option<SwapDisk> {
        SwapDisk::open(&self.offer(waker))
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.export.store.pages() * FRAME_SIZE as u64
    }

    fn offer(&self, waker: &Arc<Waker>) -> Offer {
        Offer { export: Arc::clone(&self.export), waker: Arc::clone(waker) }
    }

    /// Gives memory that nothing is stored in back to the host, where the device has memory of its own.
    ///
    /// # Errors
    /// The kernel did not take it.
    pub fn shrink(&self) -> std::io::Result<()> {
        let objects = self.export.store.objects();
        objects.shrink(CpuId(0), false, || true);
        objects.return_emptied(CpuId(0))
    }

    /// Memory is low: pages are to leave for tiers, if there are any.
    pub(crate) fn make_room(&self) {
        self.export.store.make_room();
    }

    /// What is stored, what connections asked for, and how long that took.
    pub fn stats(&self) -> SwapStats {
        let export = &self.export;
        SwapStats {
            uptime_us: u64::try_from(export.since.elapsed().as_micros()).unwrap_or(u64::MAX),
            store: export.store.stats(),
            nbd: export.counters.snapshot(),
            latency: export.latencies.snapshot(),
        }
    }
}

/// MiB on tiers that can be used when the records of pages there have so many bytes of memory, if those do not do for
/// all of `room`, in pages.
fn too_little(bytes: u64, room: u64) -> Option<u64> {
    let pages = bytes / Level::RECORD_BYTES;
    (pages < room).then_some(pages >> 8)
}

/// One NBD connection to a [`Swap`]: bytes go in, bytes come out.
#[derive(Debug)]
pub struct Connection(Session<Offer>);

impl Connection {
    /// Takes bytes that have come, as many as it can now; says how many. Those that are not taken are to be
    /// offered again after [`Self::send`].
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        self.0.receive(bytes)
    }

    /// Fills `out` with what is to be sent; says how many bytes.
    pub fn send(&mut self, out: &mut [u8]) -> usize {
        self.0.send(out)
    }

    /// The client says no more, but for what has been offered to [`Self::receive`]: what was asked is answered, and no
    /// page waits for room any more. To be told each time before what is left is offered.
    pub fn last_word(&mut self) {
        self.0.last_word();
    }

    /// True when [`Self::send`] is to be called again soon even if nothing comes: it is at something long.
    pub fn goes_on(&self) -> bool {
        self.0.goes_on()
    }

    /// True when, after [`Self::send`] had nothing to send, the waker may ring: it waits for a tier. Otherwise only what
    /// comes makes it go on.
    pub fn is_waiting(&self) -> bool {
        self.0.is_waiting()
    }

    /// True until the client has chosen an export, or all has been said.
    pub fn is_greeting(&self) -> bool {
        self.0.is_greeting()
    }

    /// All has been said: close the connection once what was handed out has gone.
    pub fn is_over(&self) -> bool {
        self.0.is_over()
    }
}
