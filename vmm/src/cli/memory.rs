//! `aerostat memory`: what the memory service has and did.
//!
//! For people, from what they ask first to what only a hunter of faults wants: how much the guest has,
//! what it costs the host and how much of that is huge, then blocks, frames and counters.

use std::fmt::Write;

use anyhow::Context;
use memsvc::MemoryStats;
use serde_json::{Map, Value};

use super::{
    Outcome,
    args::{MemoryArgs, MemoryCommand},
    output,
    table::{self, grouped},
};
use crate::api::{client::Client, types::MemoryReport};

/// Pages of 4 KiB in a MiB.
const FRAMES_PER_MIB: f64 = 256.0;
/// MiB of a block.
const MIB_PER_BLOCK: f64 = 2.0;

/// Does it.
pub(super) fn memory(args: MemoryArgs) -> Outcome {
    let MemoryCommand::Show(target) = args.command;
    let client = Client::new(&target.api_sock)?;
    let report: Map<String, Value> = client.get("/memory")?;
    if target.json {
        return output::answer(true, &report, |_| String::new());
    }
    let report = serde_json::from_value(Value::Object(report)).context(
        "The guest's process says of its memory what this program cannot read: are they of one version?",
    )?;
    output::print(&human(&report))
}

fn human(report: &MemoryReport) -> String {
    let MemoryStats { guest, arena, host, stash, faults, moves, refusals } = &report.memory;
    let mut text = String::new();
    // Writing to a string does not fail.
    if let Some(balloon) = &report.balloon_device {
        let _ = writeln!(text, "Balloon  asked for {}, given up {}", balloon.target_mib, balloon.actual_mib);
    }
    let _ = writeln!(
        text,
        "Guest    {}, of which {}",
        mib(bytes(guest.bytes)),
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
        mib(blocks(arena.blocks)),
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
                (moves.home_refused, "refused"),
                (moves.poison_lost, "poison lost"),
            ]),
        ),
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
        Self { name, count: grouped(count), unit: "blocks", size: mib(blocks(count)), meaning }
    }

    fn frames(name: &'a str, count: u64, meaning: &'a str) -> Self {
        let size = mib(count as f64 / FRAMES_PER_MIB);
        Self { name, count: grouped(count), unit: "frames", size, meaning }
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
            format!("{} resident, {share:.1} % of it huge", mib(bytes(resident)))
        }
    }
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

fn bytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn blocks(blocks: u64) -> f64 {
    blocks as f64 * MIB_PER_BLOCK
}

/// MiB, with a decimal only where it says something.
fn mib(mib: f64) -> String {
    if mib > 0.0 && mib < 10.0 && mib.fract() != 0.0 {
        return format!("{mib:.1} MiB");
    }
    format!("{} MiB", grouped(mib.round() as u64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_asked_first_comes_first() {
        let report: MemoryReport = serde_json::from_value(json!({
            "balloon_device": {"target_mib": 128, "actual_mib": 127},
            "guest": {"bytes": 4_u64 << 30, "blocks": 2048, "absent_blocks": 1994, "huge_blocks": 53,
                "split_blocks": 1, "holes": 1536, "ballooned_frames": 32_768},
            "arena": {"blocks": 264, "free_blocks": 211, "broken_blocks": 1, "frames": 135_168,
                "frames_by_type": {"buddy": 108_032, "stash": 0, "guest": 25_601, "balloon": 1535},
                "charged_frames": 27_136},
            "host": {"guest_resident_bytes": 111_149_056, "guest_huge_bytes": 110_000_000,
                "arena_resident_bytes": 0, "arena_huge_bytes": 0},
            "stash": {"blocks": 0, "max_blocks": 8, "hits": 110, "misses": 4},
            "faults": {"total": 1140, "huge": 114, "single": 0, "spurious": 0, "on_ballooned": 0,
                "no_huge_page": 0, "failed": 0},
            "moves": {"blocks_in": 114, "frames_in": 0, "frames_home": 0, "blocks_returned": 86,
                "home_refused": 0, "poison_lost": 0},
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
        assert!(text.contains("\n  faults    1,140 in all, 114 huge\n"), "{text}");
        assert!(text.ends_with("\n  refusals  2 inflated twice\n"), "{text}");
    }
}
