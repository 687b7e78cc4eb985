//! Requests of the asynchronous engine on the real memory service, which moves their pages meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memsvc::{Config, Gfn, MemoryService, RegionSpec};

use super::*;
use crate::vm::memory::guest_ram;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// The area of two blocks of which every second page is read into, and the others are given up.
const AREA: u64 = 4 * MIB;
/// Pages of one request; a ring of the driver holds no more.
const PAGES: u64 = 12;
/// So much is tried at the least, for as long as this at the most.
const ROUNDS: u64 = 300;
const MOVED: u64 = 256;
const PATIENCE: Duration = Duration::from_secs(60);

/// Says so, however the test ends.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A request pins no page and remembers none: what it reads is where the guest reaches it, wherever its pages are by now.
#[test]
fn what_is_read_is_right_while_its_pages_move_and_those_beside_them_are_given_up() {
    let mut image = NamedTempFile::new().expect("image");
    let pattern: Vec<u8> = (0..MIB).map(|at| (at / 7 + at / 4096) as u8).collect();
    image.write_all(&pattern).expect("image");
    let regions = vec![RegionSpec { gpa: 0, len: 16 * MIB }];
    let service = MemoryService::new(&Config::new(regions), |_| ()).expect("a service on this host");
    let ram = guest_ram(service.regions(), None).expect("RAM");
    let backend = BlockBackend::open(image.path(), true).expect("disk");
    let disk = BlockDevice::new(backend, &BlockConfig { engine: Engine::Async, ..CONFIG }).expect("disk");
    let mut driver = Driver::with_ram(Arc::new(Mutex::new(disk)), ram.clone());
    for block in (0..16 * MIB).step_by(2 * MIB as usize) {
        driver.put(block, &[1]);
    }
    driver.start(V1, 1);

    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = AtEnd(&is_over);
        let mover = scope.spawn(|| {
            let beside: Vec<Gfn> = (0..4 * MIB / PAGE)
                .filter(|page| page % 2 == 1)
                .map(|page| Gfn(AREA / PAGE + page))
                .collect();
            let mut moved = 0;
            while !is_over.load(Ordering::Relaxed) {
                service.inflate(&beside);
                moved += service.compact(|| !is_over.load(Ordering::Relaxed)).migrated_frames;
                service.deflate(&beside);
                // Used again, they fill their blocks, which are then made whole.
                for page in &beside {
                    ram.write_obj(1u8, GuestAddress(page.0 * PAGE)).expect("in RAM");
                }
                if moved >= MOVED {
                    break;
                }
            }
            moved
        });
        let begun = Instant::now();
        let mut rounds = 0;
        while (rounds < ROUNDS || !mover.is_finished()) && begun.elapsed() < PATIENCE {
            let sector = rounds * 8 % 1024;
            let place = |page: u64| AREA + (rounds * PAGES + page) % (2 * MIB / PAGE) * 2 * PAGE;
            let pages: Vec<_> = (0..PAGES).map(|page| Buf::In(place(page), PAGE as u32)).collect();
            for page in 0..PAGES {
                driver.put(place(page), &[0; PAGE as usize]);
            }
            let buffers = prepared(&driver, IN, sector, &pages);
            driver.add(0, &buffers);
            driver.set(0x50, 0);
            while driver.used(0).is_empty() {
                driver.wait();
            }
            assert_eq!(driver.bytes(STATUS, 1), [OK]);
            for page in 0..PAGES {
                let at = (sector * 512 + page * PAGE) as usize;
                assert!(
                    driver.bytes(place(page), PAGE as usize) == pattern[at..][..PAGE as usize],
                    "round {rounds}"
                );
            }
            rounds += 1;
        }
        is_over.store(true, Ordering::Relaxed);
        let moved = mover.join().expect("no panic");
        assert!(rounds >= ROUNDS && moved >= MOVED, "{rounds} rounds, {moved} pages moved");
    });
}
