//! `aerostat swap show`: where the guest's pages are, what came and went, and how long that took. Then come
//! requests that were dropped or had to wait, and how near the reserve came to its end.

use memsvc::core::units::FRAME_SIZE;
use memsvc::stats::{LatencyStats, ReserveInfo};
use memsvc::swap::{NbdStats, StoreStats, SwapLatency, SwapStats, TierStats};
use serde_json::Value;

use super::super::memory::amount::{bytes, seconds};
use super::super::memory::zone::reserve_line;
use super::super::table::{self, Column, grouped};
use crate::api::types::{SwapFrontCounters, SwapReport};

/// What `GET /swap` says.
pub(super) fn human(report: &SwapReport) -> String {
    let SwapReport { stats: SwapStats { uptime_us, store, nbd, latency }, reserve, front } = report;
    [stored(store), asked(nbd, *uptime_us), times(latency), trouble(store, nbd, reserve, front)].join("\n")
}

fn pages(count: u64) -> String {
    bytes(count * FRAME_SIZE as u64)
}

/// Where the pages are: in memory, then on each tier.
fn stored(store: &StoreStats) -> String {
    let ratio = match store.ratio_thousandths {
        0 => "-".to_owned(),
        ratio => format!("{:.2}:1", ratio as f64 / 1000.0),
    };
    let lines = table::pairs(&[
        ("size", pages(store.pages)),
        ("stored", pages(store.stored_pages)),
        ("  packed", format!("{}, {ratio} with what is incompressible", pages(store.packed_pages()))),
        ("  incompressible", pages(store.incompressible_pages)),
        ("  same-filled", format!("{}, which take no memory", pages(store.same_filled_pages))),
        ("  on tiers", pages(store.tier_pages)),
        (
            "memory",
            format!(
                "{} of at most {}, of it {} for what is on tiers; {} for the table of pages",
                bytes(store.stored_bytes),
                bytes(store.limit_bytes),
                bytes(store.record_bytes),
                bytes(store.table_bytes)
            ),
        ),
    ]);
    if store.tiers.is_empty() { lines } else { lines + "\n" + &tiers(&store.tiers) }
}

/// A line for each tier, in pages but for its size.
fn tiers(tiers: &[TierStats]) -> String {
    let counts = ["read", "written", "discarded", "errors", "timeouts", "reconnects"];
    let header: Vec<_> = [Column::Left("tier"), Column::Right("stored"), Column::Right("of")]
        .into_iter()
        .chain(counts.map(Column::Right))
        .collect();
    let row = |tier: &TierStats| {
        let counts = [tier.pages_read, tier.pages_written, tier.pages_discarded, tier.errors, tier.timeouts]
            .map(grouped);
        let reconnects = tier.remote.as_ref().map_or("-".to_owned(), |remote| grouped(remote.reconnects));
        [tier.name.clone(), pages(tier.stored_pages), pages(tier.pages)]
            .into_iter()
            .chain(counts)
            .chain([reconnects])
            .collect()
    };
    table::columns(&header, &tiers.iter().map(row).collect::<Vec<_>>())
}

/// What was asked for.
fn asked(nbd: &NbdStats, uptime_us: u64) -> String {
    let moved = |count: u64| {
        let rate = count as f64 / 256.0 / (uptime_us.max(1) as f64 / 1e6);
        format!("{} pages ({}), {rate:.1} MiB/s", grouped(count), pages(count))
    };
    table::pairs(&[
        ("since the start", seconds(uptime_us)),
        ("swapped out", moved(nbd.pages_written)),
        ("swapped in", moved(nbd.pages_read)),
        (
            "requests",
            format!(
                "{} reads, {} writes, {} erasures, {} flushes",
                grouped(nbd.reads),
                grouped(nbd.writes),
                grouped(nbd.erasures),
                grouped(nbd.flushes)
            ),
        ),
        ("connections", grouped(nbd.connections)),
    ])
}

/// How long requests took: bounds, since it is counted by powers of two.
fn times(latency: &SwapLatency) -> String {
    let header = [
        Column::Left("took, µs"),
        Column::Right("requests"),
        Column::Right("mean"),
        Column::Right("p50 below"),
        Column::Right("p99 below"),
        Column::Right("max"),
    ];
    let row = |name: &str, times: &LatencyStats| {
        let below = |percent| times.percentile(percent).map_or("-".to_owned(), grouped);
        let mean = times.total_us.checked_div(times.count).map_or("-".to_owned(), grouped);
        vec![name.to_owned(), grouped(times.count), mean, below(50), below(99), grouped(times.max_us)]
    };
    let rows = [
        row("reads from memory", &latency.reads),
        row("reads from tiers", &latency.reads_from_tiers),
        row("writes", &latency.writes),
    ];
    table::columns(&header, &rows)
}

/// What was dropped, had to wait or was refused.
fn trouble(store: &StoreStats, nbd: &NbdStats, reserve: &ReserveInfo, front: &SwapFrontCounters) -> String {
    let (dropped, refused) = match front {
        SwapFrontCounters::Link(link) => {
            let link = |name: &str| grouped(link.get(name).and_then(Value::as_u64).unwrap_or(0));
            let dropped = format!(
                "{} frames because memory was short, {} that nobody here serves, {} unfetched, {} replies",
                link("under_pressure"),
                link("unserved"),
                link("unfetched"),
                link("replies_dropped")
            );
            let connections = link("refused");
            let malformed = grouped(nbd.malformed);
            (Some(dropped), format!(", {connections} connections, {malformed} more that spoke no NBD"))
        }
        SwapFrontCounters::Disk(_) => (None, String::new()),
    };
    let dropped = dropped.map(|dropped| ("dropped", dropped));
    let others = [
        (
            "throttled",
            format!(
                "{} writes until tiers had room; {} requests for memory, {} in all, {} of them too long",
                grouped(store.throttled),
                grouped(reserve.throttled),
                seconds(reserve.waited_us),
                grouped(reserve.timed_out)
            ),
        ),
        ("reserve", reserve_line(reserve)),
        (
            "refused",
            format!(
                "{} pages for want of room, {} requests{refused}",
                grouped(store.no_room),
                grouped(nbd.refused)
            ),
        ),
        (
            "errors",
            format!(
                "{} replies, {} pages lost, {} corrupt",
                grouped(nbd.errors),
                grouped(store.lost),
                grouped(store.corrupt)
            ),
        ),
    ];
    table::pairs(&dropped.into_iter().chain(others).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use memsvc::stats::LatencyBucket;
    use memsvc::swap::RemoteStats;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_part_says_its_numbers() {
        let remote = RemoteStats { reconnects: 3, ..RemoteStats::default() };
        let tier = TierStats { name: "/mnt/ssd".to_owned(), pages: 262_144, ..TierStats::default() };
        let tiers = vec![
            TierStats { stored_pages: 25_600, pages_read: 7, pages_written: 30_000, ..tier.clone() },
            TierStats {
                name: "nbd:host:10809".to_owned(),
                errors: 1,
                timeouts: 2,
                remote: Some(remote),
                ..tier
            },
        ];
        let store = StoreStats {
            pages: 1 << 18,
            stored_pages: 51_200,
            same_filled_pages: 2_560,
            incompressible_pages: 1_280,
            tier_pages: 25_600,
            stored_bytes: 31 << 20,
            limit_bytes: 256 << 20,
            record_bytes: 800 << 10,
            ratio_thousandths: 2_985,
            throttled: 4,
            corrupt: 1,
            tiers,
            ..StoreStats::default()
        };
        let reads = LatencyStats {
            count: 100,
            total_us: 5_000,
            max_us: 3_000,
            buckets: vec![
                LatencyBucket { below_us: 32, count: 98 },
                LatencyBucket { below_us: 4_096, count: 2 },
            ],
        };
        let report = SwapReport {
            stats: SwapStats {
                uptime_us: 12_500_000,
                store,
                nbd: NbdStats { pages_written: 60_000, ..NbdStats::default() },
                latency: SwapLatency { reads, ..SwapLatency::default() },
            },
            reserve: ReserveInfo {
                frames: 1_472,
                free: 1_400,
                lowest_free: 700,
                in_use: 72,
                throttled: 12,
                timed_out: 1,
                waited_us: 532_100,
                ..ReserveInfo::default()
            },
            front: SwapFrontCounters::Link(
                json!({"under_pressure": 1234, "unfetched": 5, "replies_dropped": 6, "unserved": 99, "refused": 7}),
            ),
        };
        let text = human(&report);
        let told = serde_json::to_value(&report).expect("JSON");
        assert_eq!(told["link"]["unfetched"], 5);
        assert_eq!(serde_json::from_value::<SwapReport>(told).expect("a report"), report);
        for line in [
            "stored            200 MiB",
            "  packed          85 MiB, 2.98:1 with what is incompressible",
            "  on tiers        100 MiB",
            "memory            31 MiB of at most 256 MiB, of it 0.8 MiB for what is on tiers; 0 MiB for the table of pages",
            "tier             stored         of  read  written  discarded  errors  timeouts  reconnects",
            "/mnt/ssd        100 MiB  1,024 MiB     7   30,000          0       0         0           -",
            "nbd:host:10809    0 MiB  1,024 MiB     0        0          0       1         2           3",
            "since the start  12.50 s",
            "swapped out      60,000 pages (234 MiB), 18.8 MiB/s",
            "took, µs           requests  mean  p50 below  p99 below    max",
            "reads from memory       100    50         32      3,001  3,000",
            "writes                    0     -          -          -      0",
            "dropped    1,234 frames because memory was short, 99 that nobody here serves, 5 unfetched, 6 replies",
            "throttled  4 writes until tiers had room; 12 requests for memory, 0.53 s in all, 1 of them too long",
            "refused    0 pages for want of room, 0 requests, 7 connections, 0 more that spoke no NBD",
            "reserve    1,472 frames, free 1,400, at the least 700; in use 72",
            "errors     0 replies, 0 pages lost, 1 corrupt",
        ] {
            assert!(text.lines().any(|said| said == line), "{line} is not in\n{text}");
        }
        // A disk has neither frames nor connections to refuse.
        let text = human(&SwapReport { front: SwapFrontCounters::Disk(json!({"reads": 1})), ..report });
        assert!(text.contains("\nrefused    0 pages for want of room, 0 requests\n"), "{text}");
        assert!(!text.contains("dropped"), "{text}");
    }
}
