//! A synthetic guest: fills its memory, gives part of it back, and knows what is in each page that it uses.

use anyhow::ensure;
use memsvc::core::units::{FRAMES_PER_BLOCK, FrameId};

use super::{
    memory::Memory,
    pages::Pages,
    pattern::{GROUP, Pattern},
};

/// Pages that are given up with one call: what a descriptor of the balloon has at most.
const BATCH: usize = 256;
/// Of a random pattern.
const SEED: u64 = 2010;

/// How memory is filled, and what of it is given back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    /// Memory, in blocks.
    pub(super) blocks: u32,
    /// Of that, hundredths that are filled with what cannot be moved.
    pub(super) unmovable: u32,
    /// What is given back of both.
    pub(super) pattern: Pattern,
    /// Parts of the guest.
    pub(super) parts: usize,
}

/// A guest that has filled its memory.
#[derive(Debug)]
pub(super) struct Guest {
    /// Its memory in parts, one for each thread of the load.
    pub(super) parts: Vec<Part>,
    /// Frames that cannot be moved.
    pub(super) pinned: Vec<FrameId>,
}

impl Guest {
    /// Fills memory, group by group; what cannot be moved is taken meanwhile. Then gives part of it back.
    pub(super) fn fill(memory: &dyn Memory, fill: &Fill) -> anyhow::Result<Self> {
        let Fill { blocks, unmovable, pattern, parts } = *fill;
        let own = blocks as usize * (100 - unmovable as usize) / 100;
        let of_part = |part: usize| own * part / parts..own * (part + 1) / parts;
        let mut parts: Vec<_> = (0..parts).map(|part| Part::new(of_part(part))).collect();
        let mut pinned = Vec::new();
        let (groups, pins) =
            (own * FRAMES_PER_BLOCK / GROUP, blocks as usize * FRAMES_PER_BLOCK * unmovable as usize / 100);
        let pages = memory.pages();
        let all = parts.iter_mut().flat_map(|part| {
            let groups = part.live.len() / GROUP;
            (0..groups).map(move |group| (part.first, group))
        });
        for (done, (first, group)) in all.enumerate() {
            let group = first + (group * GROUP) as u32;
            (group..group + GROUP as u32).for_each(|page| pages.write(page, value(page, 0)));
            while pinned.len() < pins * (done + 1) / groups {
                let Some(frame) = memory.pin()? else { break };
                pinned.push(frame);
            }
        }
        let mut given = pattern.given(own * FRAMES_PER_BLOCK, SEED).into_iter();
        for part in &mut parts {
            part.give_back(memory, &mut given)?;
        }
        let mut kept = Vec::new();
        for (frame, given) in pinned.iter().zip(pattern.given(pinned.len(), SEED + 1)) {
            if given { memory.unpin(*frame)? } else { kept.push(*frame) }
        }
        Ok(Self { parts, pinned: kept })
    }

    /// Live frames of each of its blocks.
    pub(super) fn live(&self) -> Vec<u16> {
        let mut live = Vec::new();
        for page in self.parts.iter().flat_map(|part| &part.live) {
            let block = *page as usize / FRAMES_PER_BLOCK;
            if live.len() <= block {
                live.resize(block + 1, 0);
            }
            live[block] += 1;
        }
        let blocks = self.parts.last().map_or(0, |part| part.end() as usize / FRAMES_PER_BLOCK);
        live.resize(blocks, 0);
        live
    }

    /// Pages that it has given up.
    pub(super) fn given(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().flat_map(|part| part.given.iter().copied())
    }

    /// Reads every page that it uses.
    pub(super) fn verify(&self, memory: &dyn Memory) -> anyhow::Result<()> {
        let pages = memory.pages();
        self.parts.iter().try_for_each(|part| part.live.iter().try_for_each(|&page| part.check(&pages, page)))
    }
}

/// A part of its memory, of which one thread at a time has the pages.
#[derive(Debug)]
pub(super) struct Part {
    first: u32,
    /// How often each page was written.
    stamps: Vec<u32>,
    /// Pages in use.
    pub(super) live: Vec<u32>,
    /// Pages given up.
    pub(super) given: Vec<u32>,
}

/// What is in a page.
fn value(page: u32, stamp: u32) -> u64 {
    u64::from(page) << 32 | u64::from(stamp)
}

impl Part {
    /// Of blocks that are all in use.
    fn new(blocks: std::ops::Range<usize>) -> Self {
        let page = |block: usize| (block * FRAMES_PER_BLOCK) as u32;
        let live: Vec<u32> = (page(blocks.start)..page(blocks.end)).collect();
        Self { first: page(blocks.start), stamps: vec![0; live.len()], live, given: Vec::new() }
    }

    fn end(&self) -> u32 {
        self.first + self.stamps.len() as u32
    }

    fn give_back(
        &mut self,
        memory: &dyn Memory,
        given: &mut impl Iterator<Item = bool>,
    ) -> anyhow::Result<()> {
        let (out, live): (Vec<_>, Vec<_>) =
            self.live.iter().zip(given).partition(|(_, given): &(_, bool)| *given);
        self.given = out.into_iter().map(|(page, _)| *page).collect();
        self.live = live.into_iter().map(|(page, _)| *page).collect();
        self.given.chunks(BATCH).try_for_each(|pages| memory.give(pages))
    }

    /// Writes to a page that is in use.
    pub(super) fn write(&mut self, pages: &Pages<'_>, page: u32) {
        let stamp = &mut self.stamps[(page - self.first) as usize];
        *stamp = stamp.wrapping_add(1);
        pages.write(page, value(page, *stamp));
    }

    /// Reads a page that is in use.
    pub(super) fn check(&self, pages: &Pages<'_>, page: u32) -> anyhow::Result<()> {
        let stamp = self.stamps[(page - self.first) as usize];
        ensure!(
            pages.holds(page, value(page, stamp)),
            "Page {page} of the guest is not as it was written: a bug"
        );
        Ok(())
    }
}
