//! Pages that many connections write, read and erase at once, while most of them are on tiers: each is an
//! atomic register. A page that is read is whole. The page was neither written over before the read began nor
//! begun after it ended.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const PAGES: u64 = 240;
/// Connections. Each has the blocks of pages whose number leaves its own; those that leave `CONNECTIONS` are everybody's.
const CONNECTIONS: u64 = 3;
/// Pages of a block, which are erased together.
const BLOCK: u64 = 4;
const ROUNDS: u64 = 10_000;

/// What its one writer has done to a page: its versions. Those that are odd were written, those that are even erased.
#[derive(Default)]
struct Register {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Register {
    fn begin(&self, is_erased: bool) -> u64 {
        let version = self.done.load(Ordering::Relaxed) + 1;
        let version = if version.is_multiple_of(2) == is_erased { version } else { version + 1 };
        self.begun.store(version, Ordering::SeqCst);
        version
    }

    fn end(&self, version: u64) {
        self.done.store(version, Ordering::SeqCst);
    }
}

fn owner(page: u64) -> Option<u64> {
    let owner = page / BLOCK % (CONNECTIONS + 1);
    (owner < CONNECTIONS).then_some(owner)
}

/// The number of a page and its version, and then what nobody can pack.
fn content(page: u64, version: u64, random: u64) -> Page {
    let mut data = page_of(3, random);
    let [number, second, rest @ ..] = data.as_chunks_mut::<8>().0 else { unreachable!() };
    (*number, *second) = (page.to_le_bytes(), version.to_le_bytes());
    *rest.last_mut().unwrap() = sum(rest);
    data
}

/// The version of a page, which is even where there is nothing.
fn version(page: u64, data: &Page) -> Option<u64> {
    if same_filled(data) == Some(0) {
        return None;
    }
    let [number, version, rest @ ..] = data.as_chunks::<8>().0 else { unreachable!() };
    assert_eq!(*number, page.to_le_bytes(), "page {page} is another's");
    assert_eq!(rest.last(), Some(&sum(rest)), "page {page} is torn");
    Some(u64::from_le_bytes(*version))
}

/// Of all words but the last.
fn sum(words: &[[u8; 8]]) -> [u8; 8] {
    let words = words.split_last().map_or(&[][..], |(_, words)| words);
    words.iter().fold(0_u64, |sum, word| sum.rotate_left(1) ^ u64::from_le_bytes(*word)).to_le_bytes()
}

struct Connection<'a> {
    number: u64,
    client: Client,
    registers: &'a [Register],
    random: fastrand::Rng,
    read: u64,
    failed: u64,
}

impl Connection<'_> {
    fn run(&mut self) {
        for _ in 0..ROUNDS {
            let block = self.random.u64(..PAGES / BLOCK) * BLOCK;
            let pages = block..block + BLOCK;
            if owner(block).is_some_and(|owner| owner != self.number) || self.random.u8(..8) > 4 {
                let count = self.random.u64(1..=32.min(PAGES - block));
                self.read(block..block + count);
            } else if self.random.u8(..5) == 0 {
                self.erase(pages);
            } else {
                let page = self.random.u64(pages);
                self.write(page);
            }
        }
    }

    fn erase(&self, pages: Range<u64>) {
        let registers = &self.registers[pages.start as usize..pages.end as usize];
        let versions: Vec<u64> = registers.iter().map(|register| register.begin(true)).collect();
        self.client.store.erase(CpuId(self.number as u8 % 2), pages);
        registers.iter().zip(versions).for_each(|(register, version)| register.end(version));
    }

    fn write(&mut self, page: u64) {
        let register = &self.registers[page as usize];
        let version = register.begin(false);
        self.client.write(page, &content(page, version, self.random.u64(..))).unwrap();
        register.end(version);
    }

    fn read(&mut self, pages: Range<u64>) {
        let registers = &self.registers[pages.start as usize..pages.end as usize];
        let done: Vec<u64> = registers.iter().map(|register| register.done.load(Ordering::SeqCst)).collect();
        let Ok(read) = self.client.read(pages.clone()) else {
            self.failed += 1;
            return;
        };
        self.read += 1;
        for (((page, register), done), data) in pages.zip(registers).zip(done).zip(read) {
            let begun = register.begun.load(Ordering::SeqCst);
            let found = version(page, &data);
            if owner(page).is_none() {
                continue;
            }
            match found {
                Some(found) => {
                    assert!((done..=begun).contains(&found), "page {page}: {found} of {done}..={begun}")
                }
                None => {
                    assert!(done.is_multiple_of(2) || done < begun, "page {page} is gone, {done}..={begun}")
                }
            }
        }
    }
}

/// Reads that came to an end, and those that failed.
fn run(seed: u64, faults: impl Fn(&mut Faults)) -> (u64, u64) {
    // More than all of them may have been promised.
    let rig = Rig::new(100 << 12, &[10, 300], seed);
    rig.fail(faults);
    let registers: Vec<Register> = (0..PAGES).map(|_| Register::default()).collect();
    let ends: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let mut connection = Connection {
                    number,
                    client: rig.client(number as u8 % 2, Codec::Lz4),
                    registers: &registers,
                    random: fastrand::Rng::with_seed(seed * CONNECTIONS + number),
                    read: 0,
                    failed: 0,
                };
                scope.spawn(move || {
                    connection.run();
                    (connection.read, connection.failed)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let stats = rig.store.stats();
    assert!(stats.lost == 0 && stats.tiers.iter().all(|tier| tier.pages_read > 0), "{stats:?}");
    ends.iter().fold((0, 0), |sum, end| (sum.0 + end.0, sum.1 + end.1))
}

#[test]
fn connections_read_what_was_written_last() {
    let (read, failed) = run(7, |_| {});
    assert!(read > ROUNDS && failed == 0, "{read} were read, {failed} failed");
}

/// Nor do those see anything else whose tiers make errors, of which some are refused.
#[test]
fn connections_read_what_was_written_last_or_an_error() {
    let (read, failed) = run(8, |faults| (faults.refuse, faults.flip) = (1, 1));
    assert!(read > ROUNDS / 2 && failed > 100, "{read} were read, {failed} failed");
}
