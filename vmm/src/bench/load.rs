//! Load: threads that write, verify, inflate, deflate, and take and free what cannot be moved, all the time.
//!
//! What is live stays as much as it was; only what is where changes.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::anyhow;
use fastrand::Rng;
use memsvc::core::units::FrameId;

use super::{
    guest::Part,
    memory::Memory,
    times::{Summary, Times},
};

/// Pages written, and as many read, in a round.
const TOUCHES: usize = 64;
/// Pages given up, and as many taken back, in a round.
const TURNS: usize = 32;
/// Frames that cannot be moved, which a thread holds at most.
const PINS: usize = 64;

/// What threads of the load and whoever measures share.
#[derive(Debug, Default)]
pub(super) struct Load {
    stopped: AtomicBool,
    touches: Mutex<Times>,
}

impl Load {
    /// Has each part of a guest used by a thread while something is done.
    pub(super) fn during<T>(
        &self,
        memory: &dyn Memory,
        parts: &mut [Part],
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..)
                .zip(parts)
                .map(|(seed, part)| scope.spawn(move || self.run(memory, part, seed)))
                .collect();
            let result = work();
            self.stopped.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().map_err(|_| anyhow!("A thread of the load ended with a panic"))??;
            }
            result
        })
    }

    /// Until it is stopped.
    fn run(&self, memory: &dyn Memory, part: &mut Part, seed: u64) -> anyhow::Result<()> {
        let mut rng = Rng::with_seed(seed);
        let mut pins = Vec::new();
        while !self.stopped.load(Ordering::Relaxed) {
            self.touch(memory, part, &mut rng)?;
            turn_over(memory, part, &mut rng)?;
            pin(memory, &mut pins, &mut rng)?;
        }
        pins.drain(..).try_for_each(|frame| memory.unpin(frame))
    }

    /// Writes and reads pages that are in use.
    fn touch(&self, memory: &dyn Memory, part: &mut Part, rng: &mut Rng) -> anyhow::Result<()> {
        let pages = memory.pages();
        let mut times = Times::default();
        for _ in 0..TOUCHES {
            let Some(page) = rng.choice(&part.live).copied() else { break };
            let start = Instant::now();
            part.write(&pages, page);
            times.add(start.elapsed());
            let Some(page) = rng.choice(&part.live).copied() else { break };
            let start = Instant::now();
            part.check(&pages, page)?;
            times.add(start.elapsed());
        }
        self.touches.lock().unwrap_or_else(PoisonError::into_inner).merge(&times);
        Ok(())
    }

    /// How long touches of pages in use took.
    pub(super) fn touches(&self) -> Summary {
        self.touches.lock().unwrap_or_else(PoisonError::into_inner).summary()
    }
}

/// Some random pages are given up, and as many others taken back and written.
fn turn_over(memory: &dyn Memory, part: &mut Part, rng: &mut Rng) -> anyhow::Result<()> {
    let turns = TURNS.min(part.live.len()).min(part.given.len());
    let mut take = |from: &mut Vec<u32>| -> Vec<u32> {
        (0..turns).map(|_| from.swap_remove(rng.usize(..from.len()))).collect()
    };
    let (out, back) = (take(&mut part.live), take(&mut part.given));
    memory.give(&out)?;
    memory.take(&back)?;
    back.iter().for_each(|&page| part.write(&memory.pages(), page));
    part.given.extend(out);
    part.live.extend(back);
    Ok(())
}

/// Some frames are taken, or freed.
fn pin(memory: &dyn Memory, pins: &mut Vec<FrameId>, rng: &mut Rng) -> anyhow::Result<()> {
    if pins.is_empty() || pins.len() < PINS && rng.bool() {
        // There may be none, when free memory is low.
        pins.extend(
            (pins.len()..PINS).map_while(|_| memory.pin().ok().flatten()).take(rng.usize(1..=PINS / 2)),
        );
        return Ok(());
    }
    rng.shuffle(pins);
    let kept = rng.usize(..pins.len());
    pins.drain(kept..).try_for_each(|frame| memory.unpin(frame))
}
