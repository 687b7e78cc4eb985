//! `aerostat memory reclaim`: memory that the guest does not use, back to the host.

use indicatif::ProgressBar;
use memsvc::stats::Reclaimed;

use super::{
    super::{Outcome, args::Target, output, table::grouped},
    amount::{bytes, seconds},
    progress,
};
use crate::{api::types::ReclaimRequest, vm::config::Mib};

/// MiB of a block.
const MIB_PER_BLOCK: u64 = 2;

/// Does it. To get less than was asked for is no error: there was no more.
pub(super) fn reclaim(amount: Mib, target: &Target) -> Outcome {
    let bar = ProgressBar::new(amount.0).with_message("reclaiming");
    bar.set_style(progress::style("{msg} [{bar:30}] {pos}/{len} MiB {elapsed}"));
    let request = ReclaimRequest { mib: amount };
    let got = progress::put(target, "/memory/reclaim", &request, bar, |bar, before, now| {
        let blocks = progress::since(before, now, |memory| memory.moves.blocks_returned);
        bar.set_position(amount.0.min(blocks * MIB_PER_BLOCK));
    })?;
    output::answer(target.json, &got, human)
}

fn human(got: &Reclaimed) -> String {
    let asked = bytes(got.asked_bytes);
    let took = seconds(got.took_us);
    if got.got_bytes == 0 {
        return format!("Got nothing of the {asked} asked for, in {took}: no whole block could be had.\n");
    }
    let asked = if got.got_bytes < got.asked_bytes {
        format!("of the {asked} asked for")
    } else {
        "as asked".to_owned()
    };
    format!(
        "Got {} back, {asked}, in {took}: {} that waited for the next faults, {} by compaction.\n\
         Frames moved: {}. Huge pages split to take them: {}.\n",
        bytes(got.got_bytes),
        bytes(got.stash_bytes),
        bytes(got.compacted_bytes),
        grouped(got.migrated_frames),
        grouped(got.split_blocks)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_was_asked_for_is_said_and_how_it_was_had() {
        let got = Reclaimed {
            asked_bytes: 512 << 20,
            got_bytes: 100 << 20,
            stash_bytes: 16 << 20,
            compacted_bytes: 84 << 20,
            slab_frames: 0,
            migrated_frames: 10_752,
            split_blocks: 42,
            took_us: 1_204_000,
        };
        assert_eq!(
            human(&got),
            "Got 100 MiB back, of the 512 MiB asked for, in 1.20 s: 16 MiB that waited for the next faults, \
             84 MiB by compaction.\nFrames moved: 10,752. Huge pages split to take them: 42.\n"
        );
        let all = human(&Reclaimed { asked_bytes: 100 << 20, ..got });
        assert!(all.starts_with("Got 100 MiB back, as asked, in 1.20 s:"), "{all}");
        let none = human(&Reclaimed { asked_bytes: 1 << 20, ..Reclaimed::default() });
        assert_eq!(none, "Got nothing of the 1 MiB asked for, in 0.00 s: no whole block could be had.\n");
    }
}
