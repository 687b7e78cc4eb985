//! `aerostat memory show`: from the first question of an operator to the last of a hunter of faults. First
//! come the guest's memory, its cost for the host and the huge part of that, then blocks, frames and
//! counters.

use std::fmt::Write;

use memsvc::{MemoryStats, stats::LatencyStats};

use super::{
    super::table::{self, grouped},
    amount::{blocks, bytes, frames},
};
use crate::api::types::MemoryReport;

/// What `GET /memory` says.
pub(super) fn human(report: &MemoryReport) -> String {
    let MemoryStats { guest, arena, host, stash, faults, moves, mover, refusals } = &report.memory;
    let mut text = String::new();
    // Writing to a string does not fail.
    if let Some(balloon) = &report.balloon_device {
        let _ = writeln!(text, "Balloon  asked for {}, given up {}", balloon.target_mib, balloon.actual_mib);
    }
    let _ = writeln!(
        text,
        "Guest    {}, of which {}",
        bytes(guest.bytes),
        resident(host.guest_resident_bytes, host.guest_huge_bytes)
    );
    section(
        &mut text,
        &[
            Row::blocks("huge", guest.huge_blocks, "one whole block behind each"),
            Row::blocks("split", guest.split_blocks, "single frames behind each"),
            Row::blocks("absent", guest.absent_blocks, "nothing behind them"),
            Row::frames("in the balloon", guest.ballooned_frames, ""),
            Row::frames("holes", guest.holes, "given up in blocks that are still huge"),
        ],
    );
    let _ = writeln!(
        text,
        "Arena    {}, of which {}",
        blocks(arena.blocks),
        resident(host.arena_resident_bytes, host.arena_huge_bytes)
    );
    let types = &arena.frames_by_type;
    section(
        &mut text,
        &[
            Row::blocks("free", arena.free_blocks, ""),
            Row::blocks("broken", arena.broken_blocks, "handed out frame by frame"),
            Row::frames("guest", types.guest, ""),
            Row::frames("balloon", types.balloon, ""),
            Row::frames("stash", types.stash, "zeroed, for the next faults"),
            Row::frames("return", types.r#return, "on the way back to the host"),
            Row::frames("kmem", types.kmem, "the monitor's own"),
            Row::frames("slab", types.slab, "the monitor's own, in slabs"),
            Row::frames("movable slab", types.movable_slab, "the same, where objects can be moved"),
            Row::frames("buddy", types.buddy, "free"),
            Row::frames("charged", arena.charged_frames, "to the guest"),
        ],
    );
    text.push_str("Since the start\n");
    let lines = [
        (
            "faults",
            counts(&[
                (faults.total, "in all"),
                (faults.huge, "huge"),
                (faults.single, "single"),
                (faults.spurious, "spurious"),
                (faults.on_ballooned, "on ballooned pages"),
                (faults.no_huge_page, "without a huge page"),
                (faults.limited, "without room in the control group"),
                (faults.short, "short of memory"),
                (faults.failed, "failed"),
            ]),
        ),
        (
            "stash",
            counts(&[
                (stash.hits, "blocks ready in time"),
                (stash.misses, "too late"),
                (stash.blocks, "ready now"),
                (stash.max_blocks, "at most"),
            ]),
        ),
        (
            "moves",
            counts(&[
                (moves.blocks_in, "blocks in"),
                (moves.frames_in, "frames in"),
                (moves.frames_home, "frames home"),
                (moves.blocks_returned, "blocks returned to the host"),
                (moves.home_refused, "refused at home"),
                (moves.refused_busy, "refused: busy"),
                (moves.refused_exists, "refused: something is there"),
                (moves.refused_missing, "refused: nothing is there"),
                (moves.refused_memory, "refused: no memory"),
                (moves.refused_other, "refused otherwise"),
                (moves.set_aside, "blocks set aside"),
                (moves.swap_dropped, "dropped in the host's swap"),
                (moves.poison_lost, "poison lost"),
            ]),
        ),
        (
            "mover",
            counts(&[
                (mover.counts.harvested_blocks, "blocks harvested"),
                (mover.counts.promoted_blocks, "promoted"),
                (mover.counts.migrated_frames, "frames migrated"),
                (mover.counts.copied_bytes >> 20, "MiB copied"),
                (mover.counts.pinned, "pinned"),
                (mover.counts.failed, "failed"),
                (mover.counts.given_up, "given up"),
            ]),
        ),
        ("stalls", stalls(&mover.stalls)),
        (
            "refusals",
            counts(&[
                (refusals.outside_ram, "outside RAM"),
                (refusals.inflated_twice, "inflated twice"),
                (refusals.never_inflated, "never inflated"),
                (refusals.reported_kept, "reported and kept"),
            ]),
        ),
    ];
    for line in table::pairs(&lines).lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// A line of a section: how many, and how much memory that is.
struct Row<'a> {
    name: &'a str,
    count: String,
    unit: &'a str,
    size: String,
    meaning: &'a str,
}

impl<'a> Row<'a> {
    fn blocks(name: &'a str, count: u64, meaning: &'a str) -> Self {
        Self { name, count: grouped(count), unit: "blocks", size: blocks(count), meaning }
    }

    fn frames(name: &'a str, count: u64, meaning: &'a str) -> Self {
        Self { name, count: grouped(count), unit: "frames", size: frames(count), meaning }
    }
}

fn section(text: &mut String, rows: &[Row<'_>]) {
    let width = |cell: fn(&Row<'_>) -> usize| rows.iter().map(cell).max().unwrap_or(0);
    let (name, count, size) =
        (width(|row| row.name.len()), width(|row| row.count.len()), width(|row| row.size.len()));
    for row in rows {
        let line = format!(
            "  {:name$}  {:>count$} {}  {:>size$}  {}",
            row.name, row.count, row.unit, row.size, row.meaning
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn resident(resident: u64, huge: u64) -> String {
    match resident {
        0 => "nothing resident".to_owned(),
        _ => {
            let share = 100.0 * huge as f64 / resident as f64;
            format!("{} resident, {share:.1} % of it huge", bytes(resident))
        }
    }
}

/// How long somebody had to wait for a page on the move.
fn stalls(stalls: &LatencyStats) -> String {
    if stalls.count == 0 {
        return "none".to_owned();
    }
    let mean = stalls.total_us as f64 / stalls.count as f64;
    format!("{} of {mean:.0} µs in the mean, {} µs at most", grouped(stalls.count), grouped(stalls.max_us))
}

/// The counters that are not 0: most that are stand for something that is wrong.
fn counts(counts: &[(u64, &str)]) -> String {
    let counts: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{} {name}", grouped(*count)))
        .collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_asked_first_comes_first() {
        let report: MemoryReport = serde_json::from_value(json!({
            "balloon_device": {"target_mib": 128, "actual_mib": 127, "host_freed_mib": 120},
            "guest": {"bytes": 4_u64 << 30, "blocks": 2048, "absent_blocks": 1994, "huge_blocks": 53,
                "split_blocks": 1, "holes": 1536, "ballooned_frames": 32_768},
            "arena": {"blocks": 264, "free_blocks": 211, "broken_blocks": 1, "frames": 135_168,
                "frames_by_type": {"buddy": 108_032, "stash": 0, "guest": 25_601, "balloon": 1535,
                    "return": 512, "kmem": 3, "slab": 64, "movable_slab": 0},
                "charged_frames": 27_136},
            "host": {"guest_resident_bytes": 111_149_056, "guest_huge_bytes": 110_000_000,
                "arena_resident_bytes": 0, "arena_huge_bytes": 0},
            "stash": {"blocks": 0, "max_blocks": 8, "hits": 110, "misses": 4},
            "faults": {"total": 1140, "huge": 114, "single": 0, "spurious": 0, "on_ballooned": 0,
                "no_huge_page": 0, "limited": 0, "short": 0, "failed": 0},
            "moves": {"blocks_in": 114, "frames_in": 0, "frames_home": 0, "blocks_returned": 86,
                "home_refused": 0, "refused_busy": 0, "refused_exists": 0, "refused_missing": 0, "refused_memory": 0,
                "refused_other": 0, "set_aside": 0, "swap_dropped": 0, "poison_lost": 0},
            "mover": {"harvested_blocks": 86, "promoted_blocks": 2, "migrated_frames": 22_016, "copied_bytes": 94_371_840,
                "pinned": 0, "failed": 0, "given_up": 0,
                "stalls": {"count": 4, "total_us": 700, "max_us": 300, "buckets": [{"below_us": 512, "count": 4}]}},
            "refusals": {"outside_ram": 0, "inflated_twice": 2, "never_inflated": 0, "reported_kept": 0},
        }))
        .expect("report");
        let text = human(&report);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "Balloon  asked for 128 MiB, given up 127 MiB");
        assert_eq!(lines[1], "Guest    4,096 MiB, of which 106 MiB resident, 99.0 % of it huge");
        assert_eq!(lines[2], "  huge                53 blocks    106 MiB  one whole block behind each");
        assert_eq!(
            lines[6],
            "  holes            1,536 frames      6 MiB  given up in blocks that are still huge"
        );
        assert_eq!(lines[7], "Arena    528 MiB, of which nothing resident");
        assert!(
            text.contains("\n  slab               64 frames  0.2 MiB  the monitor's own, in slabs\n"),
            "{text}"
        );
        assert!(text.contains("\n  faults    1,140 in all, 114 huge\n"), "{text}");
        assert!(
            text.contains(
                "\n  mover     86 blocks harvested, 2 promoted, 22,016 frames migrated, 90 MiB copied\n"
            ),
            "{text}"
        );
        assert!(text.contains("\n  stalls    4 of 175 µs in the mean, 300 µs at most\n"), "{text}");
        assert!(text.ends_with("\n  refusals  2 inflated twice\n"), "{text}");
    }
}
