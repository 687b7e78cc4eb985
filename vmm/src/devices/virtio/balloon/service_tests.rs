//! The balloon on the real memory service: what the guest gives up goes back to the host.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use memsvc::{Config, MemoryService, MemoryStats, RegionSpec};

use super::{Balloon, BalloonConfig, BalloonMetrics};
use crate::devices::virtio::testing::{BUFFERS, Buf, Driver, V1};
use crate::vm::memory::guest_ram;

const MIB: u64 = 1 << 20;
/// Bytes and frames of a block.
const BLOCK: u64 = 2 * MIB;
const FRAMES: u64 = 512;
/// Two regions of 8 MiB with as much of nothing between them.
const REGIONS: [RegionSpec; 2] =
    [RegionSpec { gpa: 0, len: 8 * MIB }, RegionSpec { gpa: 16 * MIB, len: 8 * MIB }];

/// The driver goes first: it uses RAM that the service owns.
struct Fixture {
    driver: Driver,
    metrics: Arc<BalloonMetrics>,
    service: Arc<MemoryService>,
}

/// A guest all of whose memory has been used.
fn used_guest() -> Fixture {
    let service = MemoryService::new(&Config::new(REGIONS.to_vec()), |_| ()).expect("a service on this host");
    let ram = guest_ram(service.regions(), None).expect("RAM");
    let config = BalloonConfig { ram_mib: 16, free_page_reporting: true, ..Default::default() };
    let balloon = Balloon::new(config, Arc::clone(&service)).expect("balloon");
    let metrics = Arc::clone(balloon.metrics());
    let mut driver = Driver::with_ram(Arc::new(Mutex::new(balloon)), ram);
    for block in REGIONS.into_iter().flat_map(|r| (r.gpa..r.gpa + r.len).step_by(BLOCK as usize)) {
        driver.put(block, &[7]);
    }
    // Inflate, deflate, reporting.
    driver.start(V1 | 1 << 5, 3);
    Fixture { driver, metrics, service }
}

impl Fixture {
    /// Sends page numbers in buffers of 256.
    fn send(&mut self, queue: usize, pages: impl IntoIterator<Item = u32>) {
        for buffer in pages.into_iter().collect::<Vec<_>>().chunks(256) {
            let bytes: Vec<u8> = buffer.iter().flat_map(|page| page.to_le_bytes()).collect();
            self.driver.put(BUFFERS, &bytes);
            assert_eq!(self.driver.request(queue, &[Buf::Out(BUFFERS, bytes.len() as u32)]), 0);
        }
    }

    fn stats(&self) -> MemoryStats {
        let host = self.service.walk().expect("the kernel says what is resident");
        MemoryStats { host, ..self.service.stats() }
    }

    fn resident(&self) -> u64 {
        self.stats().host.guest_resident_bytes
    }
}

#[test]
fn inflate_lowers_what_is_resident_and_deflate_brings_zeroed_memory() {
    let mut guest = used_guest();
    assert_eq!(guest.resident(), 16 * MIB);
    // A block above the gap, but for its last page: nothing to gain yet.
    let (first, frames) = ((16 * MIB / 4096) as u32, FRAMES as u32);
    guest.send(0, first..first + frames - 1);
    assert_eq!((guest.resident(), guest.stats().guest.holes), (16 * MIB, FRAMES - 1));
    guest.send(0, [first + frames - 1]);
    assert_eq!((guest.resident(), guest.stats().guest.holes), (14 * MIB, 0));
    assert_eq!(guest.service.ballooned_frames(), FRAMES);

    guest.send(1, first..first + frames);
    assert_eq!((guest.service.ballooned_frames(), guest.resident()), (0, 14 * MIB));
    assert_eq!(guest.driver.bytes(16 * MIB, 2), [0, 0]);
    assert_eq!(guest.driver.bytes(18 * MIB, 2), [7, 0]);
    assert_eq!(guest.stats().host.guest_huge_bytes, 16 * MIB);
    assert_eq!([guest.metrics.inflated_pages.get(), guest.metrics.deflated_pages.get()], [FRAMES, FRAMES]);
    assert_eq!(guest.metrics.refused_pages.get(), 0);
}

/// Counted from states, and by page tables the same: holes and pieces are not back, until they are compacted.
#[test]
fn what_the_host_has_back_is_what_is_not_resident_any_more() {
    let mut guest = used_guest();
    let (first, frames) = ((16 * MIB / 4096) as u32, FRAMES as u32);
    let freed = |guest: &Fixture| guest.service.host_freed_frames();
    guest.send(0, first..first + frames - 1);
    assert_eq!((guest.service.ballooned_frames(), freed(&guest)), (FRAMES - 1, 0));
    guest.send(0, [first + frames - 1]);
    assert_eq!(freed(&guest), FRAMES);

    // Half of three blocks: what lives in them fits into two.
    guest.send(0, (first + frames..first + 4 * frames).step_by(2));
    assert_eq!(guest.service.ballooned_frames(), FRAMES + 3 * FRAMES / 2);
    while !guest.service.compaction_info().at_rest || guest.stats().stash.blocks > 0 {
        thread::sleep(Duration::from_millis(10));
    }
    let host = guest.stats().host;
    let resident = host.guest_resident_bytes + host.arena_resident_bytes;
    assert_eq!(freed(&guest), (16 * MIB - resident) / 4096);
    assert_eq!(freed(&guest), 2 * FRAMES, "one of the three is back, and in the others there are holes");

    // A page of another block is reported, so that the block is in pieces, and what is given up of it then is at home.
    assert_eq!(guest.driver.request(2, &[Buf::In(6 * MIB, 4096)]), 0);
    guest.send(0, (7 * MIB / 4096) as u32..(7 * MIB / 4096) as u32 + 10);
    assert_eq!(freed(&guest), 2 * FRAMES - 1, "pieces are not back, those that are only reported with them");

    guest.driver.set(0x70, 0);
    assert_eq!(freed(&guest), 0, "nothing is given up any more");
}

#[test]
fn pages_that_make_no_sense_are_counted_on_both_sides() {
    let mut guest = used_guest();
    let gap = (8 * MIB / 4096) as u32;
    guest.send(0, [gap - 1, gap, u32::MAX, gap - 1]);
    guest.send(1, [gap - 1, gap - 1, gap - 2]);
    let refusals = guest.stats().refusals;
    assert_eq!((refusals.outside_ram, refusals.inflated_twice, refusals.never_inflated), (2, 1, 2));
    assert_eq!(guest.metrics.refused_pages.get(), 5);
    assert_eq!([guest.metrics.inflated_pages.get(), guest.metrics.deflated_pages.get()], [1, 1]);
    assert_eq!((guest.service.ballooned_frames(), guest.resident()), (0, 16 * MIB));
}

#[test]
fn a_reported_block_goes_back_and_a_reset_empties_the_balloon() {
    let mut guest = used_guest();
    // From the middle of a block over a whole one into the gap.
    assert_eq!(guest.driver.request(2, &[Buf::In(5 * MIB, 4 * MIB as u32)]), 0);
    assert_eq!((guest.resident(), guest.metrics.reported_pages.get()), (13 * MIB, FRAMES + 256));
    let refusals = guest.stats().refusals;
    assert_eq!((refusals.reported_kept, refusals.outside_ram), (0, 256));

    guest.send(0, 1025..1125);
    assert_eq!(guest.service.ballooned_frames(), 100);
    guest.driver.set(0x70, 0);
    assert_eq!(guest.service.ballooned_frames(), 0);
    assert_eq!(guest.driver.bytes(4 * MIB, 1), [7], "nothing that stayed was lost");
}
