//! `aerostat memory compact`: all the whole blocks that can be made.

use indicatif::ProgressBar;
use memsvc::stats::Compacted;

use super::{
    super::{Outcome, args::Target, output, table::grouped},
    amount::{blocks, seconds},
    progress,
};
use crate::api::types::CompactRequest;

/// Does it.
pub(super) fn compact(target: &Target) -> Outcome {
    let bar = ProgressBar::new_spinner().with_message("compacting");
    bar.set_style(progress::style("{msg} {spinner} {elapsed}"));
    let done = progress::put(target, "/memory/compact", &CompactRequest {}, bar, |bar, before, now| {
        let won = progress::since(before, now, |memory| memory.mover.counts.harvested_blocks);
        let promoted = progress::since(before, now, |memory| memory.mover.counts.promoted_blocks);
        bar.set_message(format!(
            "compacting: {} blocks won for the host, {} of the guest whole again",
            grouped(won),
            grouped(promoted)
        ));
        bar.tick();
    })?;
    output::answer(target.json, &done, human)
}

fn human(done: &Compacted) -> String {
    let end = if done.complete { "nothing is left to win" } else { "stopped before the end" };
    format!(
        "Won {} blocks ({}) for the host and made {} of the guest's whole again in {}: {}.\n\
         Frames moved: {}; that would not move: {}. Huge pages split to take them: {}.\n",
        grouped(done.blocks),
        blocks(done.blocks),
        grouped(done.promoted_blocks),
        seconds(done.took_us),
        end,
        grouped(done.migrated_frames),
        grouped(done.failed_frames),
        grouped(done.split_blocks)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_won_is_said_first() {
        let done = Compacted {
            blocks: 120,
            promoted_blocks: 30,
            migrated_frames: 30_720,
            failed_frames: 3,
            split_blocks: 118,
            complete: true,
            took_us: 351_000,
        };
        assert_eq!(
            human(&done),
            "Won 120 blocks (240 MiB) for the host and made 30 of the guest's whole again in 0.35 s: \
             nothing is left to win.\n\
             Frames moved: 30,720; that would not move: 3. Huge pages split to take them: 118.\n"
        );
        assert!(human(&Compacted::default()).contains("in 0.00 s: stopped before the end."));
    }
}
