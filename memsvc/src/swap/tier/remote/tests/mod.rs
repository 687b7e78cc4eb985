//! The protocol by itself, and servers that others wrote.

mod protocol;
mod rig;
mod servers;

use super::super::{Block, Done, Op, TierError};
use crate::core::units::FRAME_SIZE;

/// A block that shows which place and which version it is, all through.
fn block(place: u64, version: u64) -> Box<Block> {
    let mut block = Box::new(Block([0; FRAME_SIZE]));
    for (at, word) in block.0.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(place << 40 | version << 16 | at as u64).to_be_bytes());
    }
    block
}

/// A block as it comes to be read into.
fn blank() -> Box<Block> {
    Box::new(Block([0xEE; FRAME_SIZE]))
}

fn read(place: u64) -> Op {
    Op::Read { place, block: blank() }
}

fn write(place: u64, version: u64) -> Op {
    Op::Write { place, block: block(place, version) }
}

/// True when a read has brought this.
fn is(done: &Done, expected: &Block) -> bool {
    matches!(&done.op, Op::Read { block, .. } if block.0 == expected.0) && done.result == Ok(())
}
