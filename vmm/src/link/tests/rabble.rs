//! The NBD session and the store that guests get, with a crowd on the link that says anything. There are more
//! connections than places, ten thousand in all. Beside them programs swap, and find each page as it has to
//! be.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use memsvc::guard::Guard;
use memsvc::swap::nbd::{
    ClientFlags, Command, CommandFlags, OptionCode, OptionHeader, Request, RequestHeader,
};
use memsvc::swap::{Codec, Swap, SwapConfig, Waker};
use zerocopy::IntoBytes;

use super::guest::Talk;
use super::net::{Faults, Net};
use super::swapper::Swapper;
use super::{ALL_OFFLOADS, config};
use crate::link::Config;
use crate::swap::Served;
use crate::swap::known::{Known, PAGE};

/// Places for connections, as guests have them.
const PLACES: usize = 16;
/// Programs that swap, each with pages of its own, and pages that the crowd writes to.
const CLIENTS: u64 = 3;
const PAGES: u64 = 100;
/// Programs of the crowd: more than there is room for.
const RABBLE: usize = 20;
const CONNECTIONS: u64 = 10_000;

/// Whoever is on the link.
enum Anybody {
    Swaps(Swapper),
    Babbles(Babbler),
}

/// Says something else on each connection, and does not listen.
struct Babbler {
    random: fastrand::Rng,
    noise: Rc<[u8]>,
    out: Vec<u8>,
    said: usize,
    has_enough: bool,
}

impl Babbler {
    fn new(noise: &Rc<[u8]>, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { random, noise: Rc::clone(noise), out: Vec::new(), said: 0, has_enough: false }
    }

    fn bytes(&mut self, most: usize) {
        let len = self.random.usize(..most);
        let from = self.random.usize(..self.noise.len() - len);
        self.out.extend_from_slice(&self.noise[from..from + len]);
    }

    fn request(&mut self, command: Command, offset: u64, len: u32) {
        let cookie = self.random.u64(..);
        let request = Request { command: Some(command), flags: CommandFlags::empty(), cookie, offset, len };
        self.out.extend(RequestHeader::new(&request).as_bytes());
    }

    /// Something that a server must refuse, or pages that nobody else has, whole or cut off.
    fn babble(&mut self) {
        let commands = [Command::Read, Command::Write, Command::Trim, Command::WriteZeroes, Command::Flush];
        let command = commands[self.random.usize(..commands.len())];
        let end = (CLIENTS + 1) * PAGES * PAGE as u64;
        match self.random.u8(..8) {
            0 => self.bytes(3000),
            // 4 GiB, from the start or from anywhere.
            1 => {
                let offset = if self.random.bool() { end } else { self.random.u64(..) | 1 << 40 };
                self.request(command, offset, 0_u32.wrapping_sub(PAGE as u32));
                self.bytes(20_000);
            }
            // Beyond the end, by a page or by a lot.
            2 => self.request(command, end - PAGE as u64, 2 * PAGE as u32),
            3 => {
                let (before_the_last, len) = (self.random.u64(..PAGE as u64), self.random.u32(..));
                self.request(command, u64::MAX - before_the_last, len);
            }
            // Half a request.
            4 => {
                self.request(command, end, PAGE as u32);
                let half = self.random.usize(1..size_of::<RequestHeader>());
                self.out.truncate(self.out.len() - half);
            }
            // Bits of a good one are turned.
            5 => {
                let from = self.out.len();
                self.request(Command::Read, end - PAGE as u64, PAGE as u32);
                for _ in 0..self.random.u8(1..4) {
                    let at = self.random.usize(from..self.out.len());
                    // Not those that would make it write to somebody's pages.
                    if !(from + 6..from + 8).contains(&at) {
                        self.out[at] ^= 1 << self.random.u8(..8);
                    }
                }
            }
            6 => (0..20).for_each(|_| self.request(Command::Read, end - 64 * PAGE as u64, 64 * PAGE as u32)),
            _ => {
                let pages = self.random.u64(1..=8);
                self.request(Command::Write, end - pages * PAGE as u64, pages as u32 * PAGE as u32);
                self.bytes(pages as usize * PAGE * 2);
            }
        }
    }
}

impl Talk for Babbler {
    fn begin(&mut self, _: Duration) {
        self.out.clear();
        self.said = 0;
        if self.random.u8(..8) == 0 {
            self.bytes(100);
        }
        let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
        self.out.extend(flags.bits().to_be_bytes());
        match self.random.u8(..8) {
            0 => self.bytes(100),
            1 => {
                self.out.extend(OptionHeader::new(OptionCode::Go as u32, u32::MAX).as_bytes());
                self.bytes(10_000);
            }
            2 => self.out.extend(OptionHeader::new(OptionCode::StructuredReply as u32, 0).as_bytes()),
            _ => {}
        }
        self.out.extend(OptionHeader::new(OptionCode::ExportName as u32, 0).as_bytes());
        (0..self.random.u8(1..5)).for_each(|_| self.babble());
    }

    fn send(&mut self, room: &mut [u8], _: Duration) -> usize {
        let rest = &self.out[self.said..];
        let len = room.len().min(rest.len());
        room[..len].copy_from_slice(&rest[..len]);
        self.said += len;
        len
    }

    fn receive(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn is_done(&self) -> bool {
        self.has_enough
    }
}

impl Talk for Anybody {
    fn begin(&mut self, now: Duration) {
        match self {
            Self::Swaps(swapper) => swapper.begin(now),
            Self::Babbles(babbler) => babbler.begin(now),
        }
    }

    fn send(&mut self, room: &mut [u8], now: Duration) -> usize {
        match self {
            Self::Swaps(swapper) => swapper.send(room, now),
            Self::Babbles(babbler) => babbler.send(room, now),
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Swaps(swapper) => swapper.receive(bytes),
            Self::Babbles(babbler) => babbler.receive(bytes),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Swaps(swapper) => swapper.is_done(),
            Self::Babbles(babbler) => babbler.is_done(),
        }
    }
}

#[test]
fn ten_thousand_connections_of_garbage_harm_nobody_who_swaps() {
    let bytes = (CLIENTS + 1) * PAGES * PAGE as u64;
    let swap = SwapConfig { name: "swap".into(), bytes, memory: bytes, codec: Codec::Lz4, tiers: vec![] };
    let swap = Swap::standalone(&swap, &Guard::new(|why| panic!("{why}"))).expect("a swap device");
    let served = Served::new(&swap, &Arc::new(Waker::new().expect("a descriptor")));
    let faults = Faults { late: 50, scarce: true, ..Faults::default() };
    let config = Config { connections: PLACES, ..config() };
    let mut net: Net<Served, Anybody> = Net::between(config, served, ALL_OFFLOADS, faults);
    let known: Rc<RefCell<Known>> = Known::new(1);
    let mut random = fastrand::Rng::with_seed(2);

    for client in 0..CLIENTS {
        let pages = client * PAGES..(client + 1) * PAGES;
        net.guest.run(Anybody::Swaps(Swapper::new(&known, pages, 2000)), 65_535, net.now);
    }
    net.run(Duration::from_millis(10));
    let noise: Rc<[u8]> = (0..1 << 17).map(|_| random.u8(..)).collect();
    for seed in 0..RABBLE as u64 {
        net.guest.run(Anybody::Babbles(Babbler::new(&noise, seed)), 16_384, net.now);
    }
    while net.peer.metrics().opened.get() < CONNECTIONS {
        net.run(Duration::from_micros(random.u64(10..300)));
        let now = net.now;
        net.guest.reset(random.usize(CLIENTS as usize..CLIENTS as usize + RABBLE), now);
    }
    for program in &mut net.guest.programs {
        if let Anybody::Babbles(babbler) = &mut program.talk {
            babbler.has_enough = true;
        }
    }
    net.finish(Duration::from_secs(1000));

    let metrics = net.peer.metrics();
    assert!(metrics.refused.get() > 100, "there was room for all: {metrics:?}");
    let retries: u64 = net.guest.programs[..CLIENTS as usize].iter().map(|program| program.retries).sum();
    assert_eq!(retries, 0, "who swaps has lost a connection: {metrics:?}");
    let stats = swap.stats();
    assert!(stats.nbd.malformed > 100 && stats.nbd.refused > 100, "{stats:?}");
    assert_eq!((stats.store.lost, stats.store.no_room), (0, 0), "{stats:?}");
    let stored = known.borrow().stored();
    assert!((stored..=stored + PAGES).contains(&stats.store.stored_pages), "{stored} of {stats:?}");
}
