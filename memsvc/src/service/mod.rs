//! The memory service of one guest: guest space, and the threads that serve it.
//!
//! | thread | does | waits for |
//! | --- | --- | --- |
//! | `fault` | puts memory behind pages that a vCPU or device waits for | the kernel only |
//! | `short` | has those fault again for whom there was no memory | free memory |
//! | `retry` | has those fault again whose page the kernel did not move, and helps it | the host's swap |
//! | `stash` | zeroes blocks ahead of faults | the kernel only |
//! | `compact` | makes whole blocks when something has changed (`compaction`) | the kernel only |
//!
//! None touches guest memory or waits for the monitor's event loop. Without any of them the guest would sooner or later
//! wait for ever: if one ends by an error or a panic, the monitor is told, and whoever waits is let go
//! ([`Guard`](crate::guard::Guard)).

mod compaction;
mod measure;
mod size;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use crate::core::alloc::FrameAllocator;
use crate::core::compact::{Tuning, TuningError};
use crate::core::request::{AllocError, FreeError};
use crate::core::units::{BLOCK_SIZE, BlockId, FRAME_SIZE, FRAMES_PER_BLOCK, Gfn};
use crate::core::watermark::Choice;
use crate::guard::Guard;
use crate::space::arena::Arena;
use crate::space::guest::{GuestSpace, Reclaimer, wanted};
use crate::space::host::{self, Headroom, Host, StartError};
use crate::space::mapping::Mapping;
use crate::space::pagemap::Pagemap;
use crate::space::regions::{RegionSpec, Regions};
use crate::space::uffd::Watch;
use crate::stats::{
    BuddyInfo, Compacted, CompactionInfo, MemoryStats, Reclaimed, SlabInfo, TypeInfo, ZoneInfo,
};
use crate::swap::{Swap, SwapConfig};
use compaction::Compaction;
#[doc(hidden)]
pub use measure::Moved;
pub use size::least_limit;

/// The service threads need little: no recursion, no buffers on the stack beyond a few KiB.
const STACK: usize = 256 << 10;
/// The guest's loss with any of them.
const LOSS: &str = "guest memory cannot be provided any more";
/// Who moves pages on a thread that is not the service's: pages may be left that nobody brings in.
const CALLER: &str = "compact, for a caller";

/// The work of a thread until it is told to end.
type Body = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Configuration of the service.
#[derive(Clone, Debug)]
pub struct Config {
    /// Guest RAM in guest physical address space: multiples of 2 MiB, ascending, not overlapping.
    pub regions: Vec<RegionSpec>,
    /// Most memory of the host for guest RAM and what is kept of its swap, in bytes: that is the arena, rounded
    /// down to whole blocks. At least [`least_limit`]. None: as much as both can need.
    pub limit: Option<u64>,
    /// Free frames of the arena at which something happens.
    pub watermarks: Choice,
    /// When memory is compacted.
    pub compaction: Tuning,
    /// The guest's swap device, if it is to have one.
    pub swap: Option<SwapConfig>,
    /// The operator's word that the kernel moves the right pages where the host swaps. Without it a start is refused
    /// where the host may swap and the kernel's version does not say so.
    pub allow_host_swap: bool,
}

impl Config {
    /// Guest RAM in these regions, all else by formula.
    pub fn new(regions: Vec<RegionSpec>) -> Self {
        let (watermarks, compaction) = (Choice::Formula, Tuning::default());
        Self { regions, limit: None, watermarks, compaction, swap: None, allow_host_swap: false }
    }
}

/// One region of guest RAM with its host mapping.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Where the guest sees it.
    pub spec: RegionSpec,
    /// First address in this process. Valid as long as the service lives.
    pub host: usize,
}

/// What a batch of balloon requests came to, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Frames that changed hands.
    pub accepted: u32,
    /// Frames refused; the reason is counted in [`MemoryStats`].
    pub refused: u32,
}

impl Outcome {
    fn of(total: u64, accepted: u64) -> Self {
        let clamp = |frames: u64| u32::try_from(frames).unwrap_or(u32::MAX);
        Self { accepted: clamp(accepted), refused: clamp(total.saturating_sub(accepted)) }
    }
}

/// The service of one guest. Every method may be called from any thread.
///
/// Dropping it unmaps guest RAM: whoever uses addresses of [`MemoryService::regions`] must end first.
#[derive(Debug)]
pub struct MemoryService {
    space: Arc<GuestSpace>,
    compaction: Arc<Compaction>,
    swap: Option<Swap>,
    guard: Guard,
    regions: Vec<Region>,
    stop: OwnedFd,
    threads: Vec<JoinHandle<()>>,
}

impl MemoryService {
    /// Maps arena and guest space, both with nothing behind them, and starts the service threads.
    /// `failed` is told, in a sentence, if one of them fails: the guest is to be ended then.
    ///
    /// # Errors
    /// [`StartError`] says what the host lacks and how to give it.
    pub fn new(
        config: &Config,
        failed: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, StartError> {
        Self::with_fault_thread(config, handle_faults, failed)
    }

    /// As [`Self::new`], with what the fault thread does until it is told to stop.
    fn with_fault_thread(
        config: &Config,
        serve: impl FnOnce(&GuestSpace, &OwnedFd) -> io::Result<()> + Send + 'static,
        failed: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, StartError> {
        let regions = Regions::new(&config.regions).ok_or(StartError::BadRegions)?;
        let bytes = regions.bytes();
        let uffd = host::open_uffd()?;
        host::check_huge_pages()?;
        host::check_memory(bytes)?;
        let host = Host::here();
        let is_swappable = host.admit_swap(config.allow_host_swap)?;

        let guest_blocks = u32::try_from(bytes / BLOCK_SIZE as u64).map_err(|_| StartError::BadRegions)?;
        let swap_blocks = config.swap.as_ref().map_or(0, SwapConfig::arena_blocks);
        let (arena_blocks, watermarks) = size::arena(guest_blocks, swap_blocks, config)?;
        let is_limited = arena_blocks < guest_blocks.saturating_add(swap_blocks);
        let arena_bytes = u64::from(arena_blocks) * BLOCK_SIZE as u64;
        host.admit_size(bytes, arena_bytes)?;
        let no_space = |source| host.no_address_space(bytes + arena_bytes, source);
        let arena = Arena::new(arena_blocks, is_swappable, Headroom::here(), &uffd).map_err(no_space)?;
        let mapping = Mapping::new(bytes as usize).map_err(no_space)?;
        uffd.register(mapping.base(), mapping.len(), Watch::Missing)
            .map_err(|source| StartError::Resource { what: "registering guest RAM", source })?;
        let pagemap = Pagemap::open()
            .map_err(|source| StartError::Resource { what: "opening /proc/self/pagemap", source })?;

        let swap_frames = u64::from(swap_blocks) * FRAMES_PER_BLOCK as u64;
        let space = GuestSpace::new(regions, mapping, arena, uffd, pagemap, watermarks, swap_frames);
        let space = Arc::new(space);
        let guard = Guard::new(failed).and({
            // CPUs and devices that wait for memory could not be ended.
            let space = Arc::clone(&space);
            move || space.let_go()
        });
        let swap = config.swap.as_ref().zip(space.objects()).map(|(config, objects)| {
            let released = {
                let space = Arc::clone(&space);
                Box::new(move || space.compaction().ring(wanted::RELEASED))
            };
            Swap::in_arena(
                config,
                Arc::clone(objects),
                released,
                is_limited.then_some(watermarks.min),
                &guard,
            )
        });
        let swap = swap.transpose()?;
        space.reclaimer().leave(swap.as_ref().map_or(0, Swap::record_frames));
        let thread = |source| StartError::Resource { what: "starting a thread", source };
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| thread(error.into()))?;
        let spawn = |name: &str, body: Body| guard.spawn(name, STACK, LOSS, body).map_err(thread);
        let fault = spawn("fault", {
            let space = Arc::clone(&space);
            let stop = stop.try_clone().map_err(thread)?;
            Box::new(move || serve(&space, &stop))
        })?;
        let stash = spawn("stash", {
            let space = Arc::clone(&space);
            Box::new(move || {
                space.keep_stash();
                Ok(())
            })
        })?;
        let short = spawn("short", {
            let space = Arc::clone(&space);
            Box::new(move || {
                space.attend_shortage();
                Ok(())
            })
        })?;
        let retry = spawn("retry", {
            let space = Arc::clone(&space);
            Box::new(move || space.retry_refused())
        })?;
        let compaction = Arc::new(Compaction::new(Arc::clone(&space), swap.clone(), config.compaction));
        let compact = spawn("compact", {
            let compaction = Arc::clone(&compaction);
            Box::new(move || {
                compaction.attend();
                Ok(())
            })
        })?;

        let mut host = space.base();
        let regions = config
            .regions
            .iter()
            .map(|&spec| {
                let region = Region { spec, host };
                host += spec.len as usize;
                region
            })
            .collect();
        let threads = vec![fault, short, retry, stash, compact];
        Ok(Arc::new(Self { space, compaction, swap, guard, regions, stop, threads }))
    }

    /// Guest RAM as this process sees it; absent until touched.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    #[cfg(test)]
    pub(crate) fn space(&self) -> &GuestSpace {
        &self.space
    }

    /// The guest gives these frames up (balloon inflate).
    pub fn inflate(&self, gfns: &[Gfn]) -> Outcome {
        Outcome::of(gfns.len() as u64, self.space.inflate(gfns).into())
    }

    /// The guest takes these frames back (balloon deflate).
    pub fn deflate(&self, gfns: &[Gfn]) -> Outcome {
        Outcome::of(gfns.len() as u64, self.space.deflate(gfns).into())
    }

    /// The guest says that it does not use this range (guest physical bytes) for the moment (free
    /// page reporting, hinting). Whole blocks are freed; a huge block of which a piece is reported is split,
    /// and the piece is free. A range that is not made of whole frames is refused.
    pub fn report_free(&self, gpa: u64, len: u64) -> Outcome {
        let frame = FRAME_SIZE as u64;
        if !gpa.is_multiple_of(frame) || !len.is_multiple_of(frame) {
            return Outcome::of(len.div_ceil(frame), 0);
        }
        Outcome::of(len / frame, self.space.report_free(Gfn(gpa / frame), len / frame))
    }

    /// The balloon device was reset: what was in the balloon is the guest's again.
    pub fn reset_balloon(&self) {
        self.space.reset_balloon();
    }

    /// Compacts all that can be: split blocks of the guest that it has filled get a whole block each, then
    /// blocks are emptied and given back to the host. Takes the time that it takes, on this thread;
    /// `goes_on` is asked before each block.
    pub fn compact(&self, goes_on: impl FnMut() -> bool) -> Compacted {
        self.guard.watch(CALLER, LOSS, || self.compaction.compact(goes_on))
    }

    /// Gives so many bytes back to the host, if there are as many that nobody uses: on this thread, in whole
    /// blocks; `goes_on` is asked before each.
    pub fn reclaim(&self, bytes: u64, goes_on: impl FnMut() -> bool) -> Reclaimed {
        self.guard.watch(CALLER, LOSS, || self.compaction.reclaim(bytes, goes_on))
    }

    /// The guest's swap device, if it has one.
    pub fn swap(&self) -> Option<&Swap> {
        self.swap.as_ref()
    }

    /// Where the thread that frees memory, the one that serves swap and the balloon, announces its touches of guest RAM. Nobody
    /// is to announce what frees no memory: it could use up the reserve. What pages of swap need to leave for a tier is not
    /// for such touches.
    pub fn reclaimer(&self) -> &Arc<Reclaimer> {
        self.space.reclaimer()
    }

    /// True when touches of all these pieces of guest RAM (address and bytes) would wait for memory, by whom
    /// [announces](Self::reclaimer) them: that thread had better free some first. Addresses that are no RAM are nothing to wait for.
    /// The pieces are a page's worth of bytes, or a little more.
    pub fn lacks_memory_for(&self, pieces: impl Iterator<Item = (u64, u64)>) -> bool {
        let frame = FRAME_SIZE as u64;
        let gfns = |(gpa, len): (u64, u64)| gpa / frame..gpa.saturating_add(len).div_ceil(frame);
        self.space.lacks_memory_for(pieces.flat_map(gfns).map(Gfn))
    }

    /// The guest ends. Its CPUs and devices may be waiting for memory, which nobody frees any more: they get zeroed memory
    /// that is beyond the limit, so that they can be ended.
    pub fn end_guest(&self) {
        self.space.end();
    }

    /// True when free memory is below the min watermark: only what frees memory is to be asked for then.
    pub fn is_short(&self) -> bool {
        self.space.allocator().is_short()
    }

    /// The frame allocator: for memory of the monitor's own.
    pub fn allocator(&self) -> &FrameAllocator {
        self.space.allocator()
    }

    /// A whole block for the monitor itself ([`PageType::Kmem`](crate::core::page_type::PageType::Kmem)), made
    /// by compaction if there is none and fragmentation is why (`extfrag_threshold`); what is made goes to
    /// who asked for it. It has no memory behind it yet. Free it with [`Self::put_block`].
    ///
    /// # Errors
    /// Why there is none.
    pub fn get_block(&self) -> Result<BlockId, AllocError> {
        self.guard.watch(CALLER, LOSS, || self.compaction.get_block())
    }

    /// Gives such a block back.
    ///
    /// # Errors
    /// It is none.
    pub fn put_block(&self, block: BlockId) -> Result<(), FreeError> {
        self.space.put_block(block)
    }

    /// How compaction is tuned, and what it did.
    pub fn compaction_info(&self) -> CompactionInfo {
        self.compaction.info()
    }

    /// How compaction is tuned.
    pub fn compaction(&self) -> Tuning {
        self.compaction.tuning()
    }

    /// Tunes it. What runs in the background goes on as it was, but ends if the policy is off now.
    ///
    /// # Errors
    /// [`TuningError`] names what cannot be; nothing has changed then.
    pub fn tune_compaction(&self, tuning: Tuning) -> Result<(), TuningError> {
        self.compaction.tune(tuning.checked()?);
        Ok(())
    }

    /// Frames in the balloon now, by our own ledger.
    pub fn ballooned_frames(&self) -> u64 {
        self.space.ballooned_frames()
    }

    /// Of these, frames that the host has back: all but holes in huge pages that are still whole, and free frames at home in
    /// blocks that are in pieces. Those count against the balloon whoever gave them up. Counted from states, as [`Self::stats`].
    pub fn host_freed_frames(&self) -> u64 {
        self.space.host_freed_frames()
    }

    /// Free chunks by order, and the fragmentation indices.
    pub fn buddy_info(&self) -> BuddyInfo {
        self.space.allocator().buddy_info()
    }

    /// Free chunks by migrate type, frames by page type, charges.
    pub fn type_info(&self) -> TypeInfo {
        self.space.allocator().type_info()
    }

    /// Watermarks, reserve, per-CPU lists, what the allocator did.
    pub fn zone_info(&self) -> ZoneInfo {
        self.space.allocator().zone_info()
    }

    /// The slab caches.
    pub fn slab_info(&self) -> SlabInfo {
        let mut info = self.space.slabs().info();
        let objects = self.space.objects().map(|objects| objects.info());
        info.caches.extend(objects.into_iter().flat_map(|objects| objects.caches));
        info
    }

    /// All states and counters, at one moment. It walks neither page tables nor tables of blocks, so that it may be asked
    /// for as often as anybody likes.
    pub fn stats(&self) -> MemoryStats {
        self.space.stats()
    }
}

impl Drop for MemoryService {
    fn drop(&mut self) {
        self.space.stop();
        self.compaction.stop();
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn handle_faults(space: &GuestSpace, stop: &OwnedFd) -> io::Result<()> {
    let mut faults = Vec::new();
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(space.uffd().as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !fds[1].revents().is_empty() {
            return Ok(());
        }
        space.uffd().read_faults(&mut faults)?;
        for &fault in &faults {
            space.resolve(fault);
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code)] // touches guest memory, as a CPU would
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::space::bell::Bell;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A touch of guest memory whose fault thread ends like this is over, and the monitor is told why.
    fn told_after(serve: impl FnOnce(&GuestSpace, &OwnedFd) -> io::Result<()> + Send + 'static) -> String {
        let (sender, receiver) = channel();
        let regions = vec![RegionSpec { gpa: 0, len: 2 * BLOCK_SIZE as u64 }];
        let failed = move |why| sender.send(why).expect("the test waits");
        let service = MemoryService::with_fault_thread(&Config::new(regions), serve, failed)
            .expect("a service on this host");
        let address = service.regions()[0].host;
        let (touched, touch) = channel();
        thread::spawn(move || {
            // SAFETY: the first bytes of guest RAM, which stays mapped until this read is over.
            touched.send(unsafe { std::ptr::read_volatile(address as *const u64) })
        });
        let why = receiver.recv_timeout(PATIENCE).expect("the failure is told");
        assert_eq!(touch.recv_timeout(PATIENCE), Ok(0), "who waits is let go");
        why
    }

    fn wait_for_fault(space: &GuestSpace) {
        let mut fds = [PollFd::from_borrowed_fd(space.uffd().as_fd(), PollFlags::IN)];
        poll(&mut fds, None).expect("a fault");
    }

    #[test]
    fn an_error_of_the_fault_thread_is_told_and_lets_waiters_go() {
        let why = told_after(|space, _| {
            wait_for_fault(space);
            Err(io::Error::from(Errno::NOMEM))
        });
        assert!(why.contains("guest memory") && why.contains("memory"), "{why}");
    }

    #[test]
    fn a_panic_of_the_fault_thread_is_told_and_lets_waiters_go() {
        let why = told_after(|space, _| {
            wait_for_fault(space);
            panic!("on purpose");
        });
        assert!(why.contains("a bug"), "{why}");
    }

    /// This ring makes the thread panic where it hears.
    #[test]
    fn a_panic_of_any_other_thread_is_told_lets_waiters_go_and_holds_nobody_up() {
        type Which = fn(&MemoryService) -> &Bell;
        let bells: [(&str, Which); 4] = [
            ("stash", |service| service.space.refill()),
            ("short", |service| service.space.short()),
            ("retry", |service| service.space.retry()),
            ("compact", |service| service.space.compaction()),
        ];
        for (name, bell) in bells {
            let (sender, told) = channel::<String>();
            let regions = vec![RegionSpec { gpa: 0, len: 2 * BLOCK_SIZE as u64 }];
            let failed = move |why| sender.send(why).expect("the test waits");
            let service = MemoryService::with_fault_thread(&Config::new(regions), ignore_faults, failed)
                .expect("a service on this host");
            let address = service.regions()[0].host;
            let (touched, touch) = channel();
            thread::spawn(move || {
                // SAFETY: the first bytes of guest RAM, which stays mapped until this read is over.
                touched.send(unsafe { std::ptr::read_volatile(address as *const u64) })
            });
            // Nobody hears before the thread is there.
            let since = Instant::now();
            let why = loop {
                bell(&service).ring(Bell::BREAK);
                match told.recv_timeout(Duration::from_millis(1)) {
                    Ok(why) => break why,
                    Err(_) => assert!(since.elapsed() < PATIENCE, "{name}: nobody is told"),
                }
            };
            assert!(why.contains(&format!("\"{name}\"")), "{why}");
            assert_eq!(touch.recv_timeout(PATIENCE), Ok(0), "{name}: who waits is let go");
            let (ended, end) = channel();
            thread::spawn(move || {
                drop(service);
                ended.send(())
            });
            assert_eq!(end.recv_timeout(PATIENCE), Ok(()), "{name}: nobody is waited for");
        }
    }

    fn ignore_faults(_: &GuestSpace, stop: &OwnedFd) -> io::Result<()> {
        poll(&mut [PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)], None)?;
        Ok(())
    }
}
