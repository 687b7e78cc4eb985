//! `aerostat memory zone`: watermarks, reserve, per-CPU lists, and what the allocator did.

use memsvc::stats::{AllocCounters, CpuInfo, ReserveInfo, ZoneInfo};

use super::{
    super::table::{self, Column, grouped},
    amount::frames,
};

/// What `GET /memory/zone` says.
pub(super) fn human(info: &ZoneInfo) -> String {
    let sized = |count| format!("{} ({})", grouped(count), frames(count));
    let reserve = &info.reserve;
    let state = table::pairs(&[
        ("frames", format!("{}, free {}", sized(info.frames), sized(info.free))),
        (
            "watermarks",
            format!("min {}, low {}, high {}", sized(info.min), sized(info.low), sized(info.high)),
        ),
        ("own tables", format!("{:.3} bytes a frame", info.metadata_millibytes_per_frame as f64 / 1000.0)),
        ("reserve", reserve_line(reserve)),
        (
            "throttled",
            format!(
                "{} times, {} of them too long, {:.3} s in all; waiting now {}",
                grouped(reserve.throttled),
                grouped(reserve.timed_out),
                reserve.waited_us as f64 / 1e6,
                grouped(reserve.waiting)
            ),
        ),
    ]);
    format!("{state}\n{}\n{}", lists(&info.cpus), since_the_start(&info.counters))
}

/// How much of the reserve there is, and was.
pub(in crate::cli) fn reserve_line(reserve: &ReserveInfo) -> String {
    format!(
        "{} frames, free {}, at the least {}; in use {}",
        grouped(reserve.frames),
        grouped(reserve.free),
        grouped(reserve.lowest_free),
        grouped(reserve.in_use)
    )
}

fn lists(cpus: &[CpuInfo]) -> String {
    let header = ["cpu", "ready frames", "ready blocks", "freed frames", "freed blocks"].map(Column::Right);
    let rows: Vec<_> = cpus
        .iter()
        .map(|cpu| {
            let held = [cpu.ready_frames, cpu.ready_blocks, cpu.freed_frames, cpu.freed_blocks];
            [cpu.cpu.into()].into_iter().chain(held).map(grouped).collect()
        })
        .collect();
    table::columns(&header, &rows)
}

fn since_the_start(counters: &AllocCounters) -> String {
    let &AllocCounters {
        refills,
        drains,
        drain_all,
        drain_visits,
        drain_visits_saved,
        drain_busy,
        failed,
        from_reserve,
        low_hits,
        steals,
        blocks_converted,
        free_errors,
    } = counters;
    table::pairs(
        &[
            ("refills", refills),
            ("drains", drains),
            ("drains of all", drain_all),
            ("  lists visited", drain_visits),
            ("  lists not visited", drain_visits_saved),
            ("  lists busy", drain_busy),
            ("requests failed", failed),
            ("requests from reserve", from_reserve),
            ("below low", low_hits),
            ("chunks stolen", steals),
            ("blocks converted", blocks_converted),
            ("frees refused", free_errors),
        ]
        .map(|(name, count)| (name, grouped(count))),
    )
}

#[cfg(test)]
mod tests {
    use memsvc::stats::ReserveInfo;

    use super::*;

    #[test]
    fn every_part_says_its_numbers() {
        let text = human(&ZoneInfo {
            frames: 135_168,
            free: 108_032,
            min: 1472,
            low: 1840,
            high: 2208,
            metadata_millibytes_per_frame: 7125,
            reserve: ReserveInfo {
                frames: 1472,
                free: 1400,
                lowest_free: 700,
                in_use: 72,
                waiting: 2,
                throttled: 12,
                timed_out: 1,
                waited_us: 532_100,
            },
            cpus: vec![CpuInfo {
                cpu: 3,
                ready_frames: 31,
                ready_blocks: 1,
                freed_frames: 7,
                freed_blocks: 2,
            }],
            counters: AllocCounters { drain_visits_saved: 1_000_000, ..AllocCounters::default() },
        });
        for line in [
            "frames      135,168 (528 MiB), free 108,032 (422 MiB)",
            "watermarks  min 1,472 (5.8 MiB), low 1,840 (7.2 MiB), high 2,208 (8.6 MiB)",
            "own tables  7.125 bytes a frame",
            "reserve     1,472 frames, free 1,400, at the least 700; in use 72",
            "throttled   12 times, 1 of them too long, 0.532 s in all; waiting now 2",
            "cpu  ready frames  ready blocks  freed frames  freed blocks",
            "  3            31             1             7             2",
            "  lists not visited    1,000,000",
        ] {
            assert!(text.lines().any(|said| said == line), "{line} is not in\n{text}");
        }
    }
}
