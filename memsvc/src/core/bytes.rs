//! Operations for the model, made of bytes: what a fuzzer changes at will.
//!
//! Every string of bytes is a sequence of operations, so nothing a fuzzer tries is lost. `fuzz/` is what
//! gives them to libFuzzer.
//!
//! ```text
//!   ┌──────┬─ arguments, 0 to 5 bytes ─┬──────┬─ …      what is missing at the end is 0
//!   │ kind │ CPU, order, number, …     │ kind │
//!   └──────┴───────────────────────────┴──────┴─ …
//! ```

use super::migrate_type::MigrateType;
use super::model::{BLOCKS, CPUS, FRAMES, Model, Op};
use super::page_type::PageType;
use super::request::{Flags, Request};
use super::units::{BlockId, CpuId, FrameId, Order, OwnerId};

/// Operations looked at, at most: each is followed by a look at every frame.
const MOST: usize = 200;

/// Runs the allocator and its model through the operations that these bytes make.
///
/// # Panics
/// When they do not agree.
pub fn run(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut model = Model::new();
    for _ in 0..MOST {
        if bytes.0.is_empty() {
            break;
        }
        let op = bytes.op();
        let words = format!("{op:?}");
        if let Err(error) = model.step(op) {
            panic!("{words}: {error}");
        }
    }
    if let Err(error) = model.end() {
        panic!("at the end: {error}");
    }
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    fn op(&mut self) -> Op {
        let kind = self.byte();
        // What comes and goes most is most of the kinds.
        match kind % 16 {
            0..=4 => Op::Alloc { cpu: self.cpu(), request: self.request(), times: self.times() },
            5..=8 => Op::Free { cpu: self.cpu(), nth: self.word().into(), times: self.times() },
            9 => {
                let frame = FrameId(u32::from(self.word()) % (FRAMES as u32 + 9));
                Op::FreeAnything { cpu: self.cpu(), frame, order: self.order() }
            }
            10 => Op::FreeAgain { cpu: self.cpu() },
            11 => Op::Drain { cpu: self.cpu() },
            12 => Op::DrainAll,
            13 => Op::Split { nth: self.word().into() },
            14 => {
                let page_type = if kind < 128 { PageType::Balloon } else { PageType::Guest };
                Op::Retag { nth: self.word().into(), index: self.word().into(), page_type }
            }
            _ if kind < 64 => Op::TakeEmptied,
            _ if kind < 128 => {
                let block = BlockId(u32::from(self.byte()) % BLOCKS);
                Op::Empty { cpu: self.cpu(), block, moves: self.times() }
            }
            _ => {
                let limit = u64::from(self.word());
                Op::Limit { owner: self.owner(), limit: (limit < FRAMES).then_some(limit) }
            }
        }
    }

    fn cpu(&mut self) -> CpuId {
        CpuId(self.byte() % CPUS)
    }

    fn owner(&mut self) -> OwnerId {
        OwnerId(self.byte() % 3)
    }

    fn order(&mut self) -> Order {
        Order::new(self.byte() % Order::COUNT as u8).unwrap_or(Order::FRAME)
    }

    /// Mostly few.
    fn times(&mut self) -> u32 {
        let byte = u32::from(self.byte());
        if byte < 192 { byte % 4 + 1 } else { (byte - 191) * 11 }
    }

    fn request(&mut self) -> Request {
        let (order, how) = (self.byte(), self.byte());
        // Orders 0 and 9 have lists of their own, and most of the code.
        let order = match order % 16 {
            0..=7 => Order::FRAME,
            order @ 8..=13 => Order::new(order - 7).unwrap_or(Order::FRAME),
            _ => Order::BLOCK,
        };
        let types = [PageType::Guest, PageType::Stash, PageType::Kmem, PageType::Slab];
        let flags = [Flags::NONE, Flags::NONE, Flags::NOWAIT, Flags::MEMALLOC];
        let request = Request::new(order, types[usize::from(how % 4)])
            .flags(flags[usize::from(how / 4 % 4)])
            .charge_to(OwnerId(how / 16 % 3));
        match how / 64 {
            0 => request.migrate_type(MigrateType::ALL[usize::from(how) % MigrateType::COUNT]),
            _ => request,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a generator that is always the same: what the fuzzer starts from.
    #[test]
    fn any_bytes_are_operations_that_model_and_allocator_agree_on() {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        for length in (0..600).step_by(20) {
            let byte = |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            };
            run(&(0..length).map(byte).collect::<Vec<u8>>());
        }
    }
}
