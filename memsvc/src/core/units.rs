//! Units. A bare integer never crosses a module: it is a guest frame, a home slot or a block.

use std::fmt;

/// Bytes in a frame: the x86-64 base page.
pub const FRAME_SIZE: usize = 4096;
/// Frames in a block: the order-9 pageblock of x86-64 Linux.
pub const FRAMES_PER_BLOCK: usize = 512;
/// Bytes in a block: one PMD-mapped huge page.
pub const BLOCK_SIZE: usize = FRAME_SIZE * FRAMES_PER_BLOCK;

const _: () = assert!(BLOCK_SIZE == 2 << 20);

/// Guest frame number: guest physical address divided by [`FRAME_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gfn(pub u64);

/// A frame of the arena, numbered by its home slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(pub u32);

/// A block of the arena: 512 home slots, 2 MiB aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// A block of guest RAM, numbered from the start of guest space (holes of the physical map left out).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestBlock(pub u32);

/// A guest frame as guest space numbers it: block and index in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestFrame(pub u32);

impl FrameId {
    /// The block in which the home slot lies.
    pub fn block(self) -> BlockId {
        BlockId(self.0 / FRAMES_PER_BLOCK as u32)
    }

    /// Position in the block, 0 to 511.
    pub fn index(self) -> usize {
        self.0 as usize % FRAMES_PER_BLOCK
    }

    /// Byte offset of the home slot in the arena.
    pub fn offset(self) -> usize {
        self.0 as usize * FRAME_SIZE
    }
}

impl BlockId {
    /// The frame at `index` (0 to 511) of this block.
    pub fn frame(self, index: usize) -> FrameId {
        debug_assert!(index < FRAMES_PER_BLOCK);
        FrameId(self.0 * FRAMES_PER_BLOCK as u32 + index as u32)
    }

    /// Byte offset of the block in the arena.
    pub fn offset(self) -> usize {
        self.0 as usize * BLOCK_SIZE
    }
}

impl GuestBlock {
    /// The guest frame at `index` (0 to 511) of this block.
    pub fn frame(self, index: usize) -> GuestFrame {
        debug_assert!(index < FRAMES_PER_BLOCK);
        GuestFrame(self.0 * FRAMES_PER_BLOCK as u32 + index as u32)
    }

    /// Byte offset of the block in guest space.
    pub fn offset(self) -> usize {
        self.0 as usize * BLOCK_SIZE
    }
}

impl GuestFrame {
    /// The guest block in which it lies.
    pub fn block(self) -> GuestBlock {
        GuestBlock(self.0 / FRAMES_PER_BLOCK as u32)
    }

    /// Position in the block, 0 to 511.
    pub fn index(self) -> usize {
        self.0 as usize % FRAMES_PER_BLOCK
    }

    /// Byte offset in guest space.
    pub fn offset(self) -> usize {
        self.0 as usize * FRAME_SIZE
    }
}

/// Who frames are charged to: a guest, or the monitor itself ([`OwnerId::HOST`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(pub u8);

impl OwnerId {
    /// The monitor's own frames.
    pub const HOST: OwnerId = OwnerId(0);
    /// How many owners there can be: what a tag has room for.
    pub const COUNT: usize = 64;
}

/// A set of per-CPU lists. Not a processor: each thread that allocates enters one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u8);

impl CpuId {
    /// How many there can be: a mask of them is one word.
    pub const MAX: usize = 64;
}

/// Binary logarithm of a number of contiguous frames, 0 to 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(u8);

impl Order {
    /// One frame.
    pub const FRAME: Order = Order(0);
    /// One block.
    pub const BLOCK: Order = Order(9);
    /// How many orders there are.
    pub const COUNT: usize = 10;

    /// The order of this number; `None` above 9.
    pub const fn new(order: u8) -> Option<Order> {
        if order <= Self::BLOCK.0 { Some(Order(order)) } else { None }
    }

    /// All orders, from one frame to one block.
    pub fn all() -> impl DoubleEndedIterator<Item = Order> + ExactSizeIterator {
        (0..Self::COUNT as u8).map(Order)
    }

    /// As a number, 0 to 9.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Frames in a chunk of this order.
    pub const fn frames(self) -> u32 {
        1 << self.0
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
