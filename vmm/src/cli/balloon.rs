//! `aerostat balloon`: set or read the balloon of a running guest.

mod wait;

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Outcome,
    args::{BalloonArgs, BalloonCommand, Target, WaitFor},
    output, table,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{BalloonProgress, BalloonStats, BalloonUpdate, MemoryReport},
    },
    vm::config::{BalloonConfig, Mib},
};

/// The balloon: how it is set up, and how far it is, which is not known before the guest's start.
#[derive(Serialize, ToSchema)]
pub(super) struct Balloon {
    #[serde(flatten)]
    config: BalloonConfig,
    /// Memory that the guest has given up, in MiB.
    actual_mib: Option<Mib>,
    /// Of that, memory that the host has back, in MiB.
    host_freed_mib: Option<Mib>,
}

/// Does it.
pub(super) fn balloon(args: BalloonArgs) -> Outcome {
    match args.command {
        BalloonCommand::Set { amount, wait, target } => set(amount, wait, &target),
        BalloonCommand::Get(target) => get(&target),
        BalloonCommand::Stats(target) => stats(&target),
    }
}

fn set(amount: Mib, wait: Option<WaitFor>, target: &Target) -> Outcome {
    let client = target.client()?;
    client.patch("/balloon", &BalloonUpdate { amount_mib: amount })?;
    let progress = match wait {
        Some(whom) => wait::wait(&client, amount, whom)?,
        None => progress(&client)?,
    };
    output::answer(target.json, &progress, |progress| match progress {
        Some(now) => given_up(now, wait == Some(WaitFor::Host)),
        None => format!("The guest is asked for {amount}.\n"),
    })
}

/// What the guest has given up, and what the host has of it.
fn given_up(now: &BalloonProgress, with_host: bool) -> String {
    let BalloonProgress { target_mib, actual_mib, host_freed_mib } = now;
    let guest = match actual_mib == target_mib {
        true if *actual_mib == Mib(0) => return "The guest has all of its memory, as asked.\n".to_owned(),
        true => format!("The guest has given up {actual_mib}, as asked."),
        false => format!("The guest is asked for {target_mib}, and has given up {actual_mib}."),
    };
    match with_host {
        true if host_freed_mib >= actual_mib => format!("{guest} The host has all of it back.\n"),
        true => format!("{guest} The host has {host_freed_mib} of it back, and compaction wins no more.\n"),
        false => guest + "\n",
    }
}

fn get(target: &Target) -> Outcome {
    let client = target.client()?;
    let config: BalloonConfig = client.get("/balloon")?;
    // A guest that has not been started has a balloon, but nothing in it.
    let now = match progress(&client) {
        Ok(now) => now,
        Err(ClientError::NotStarted) => None,
        Err(error) => return Err(error.into()),
    };
    let on = |is_on| if is_on { "on" } else { "off" }.to_owned();
    let [actual_mib, host_freed_mib] = [now.map(|now| now.actual_mib), now.map(|now| now.host_freed_mib)];
    let known = |mib: Option<Mib>| mib.map_or("not started".to_owned(), |mib| mib.to_string());
    output::answer(
        target.json,
        &Balloon { config, actual_mib, host_freed_mib },
        |Balloon { config, .. }| {
            table::pairs(&[
                ("asked for", config.amount_mib.to_string()),
                ("given up", known(actual_mib)),
                ("back at the host", known(host_freed_mib)),
                ("deflate on OOM", on(config.deflate_on_oom)),
                (
                    "statistics",
                    match config.stats_polling_interval_s {
                        0 => "off".to_owned(),
                        seconds => format!("every {seconds} s"),
                    },
                ),
                ("free page hinting", on(config.free_page_hinting)),
                ("free page reporting", on(config.free_page_reporting)),
            ])
        },
    )
}

fn stats(target: &Target) -> Outcome {
    let client = target.client()?;
    let stats: BalloonStats = client.get("/balloon/statistics")?;
    output::answer(target.json, &stats, told)
}

/// Memory first, then what the guest did for want of it. What the guest does not tell is left out.
fn told(stats: &BalloonStats) -> String {
    let guest = &stats.guest;
    let mib = |bytes: u64| format!("{} MiB", table::grouped(bytes >> 20));
    let memory = [
        ("left to the guest", guest.total_memory),
        ("free", guest.free_memory),
        ("available", guest.available_memory),
        ("disk caches", guest.disk_caches),
        ("swapped in", guest.swap_in),
        ("swapped out", guest.swap_out),
    ];
    let counts = [
        ("major faults", guest.major_faults),
        ("minor faults", guest.minor_faults),
        ("killed for memory", guest.oom_kill),
        ("allocations stalled", guest.alloc_stall),
        ("scanned in background", guest.async_scan),
        ("scanned directly", guest.direct_scan),
        ("reclaimed in background", guest.async_reclaim),
        ("reclaimed directly", guest.direct_reclaim),
        ("hugetlb pages given", guest.hugetlb_allocations),
        ("hugetlb pages refused", guest.hugetlb_failures),
    ];
    let mut lines = vec![
        ("asked for", stats.target_mib.to_string()),
        ("given up", format!("{} ({} pages)", stats.actual_mib, table::grouped(stats.actual_pages))),
        ("back at the host", stats.host_freed_mib.to_string()),
    ];
    lines.extend(memory.into_iter().filter_map(|(name, bytes)| Some((name, mib(bytes?)))));
    lines.extend(counts.into_iter().filter_map(|(name, count)| Some((name, table::grouped(count?)))));
    table::pairs(&lines)
}

/// How far the balloon is.
fn progress(client: &Client) -> Result<Option<BalloonProgress>, ClientError> {
    let report: MemoryReport = client.get("/memory")?;
    Ok(report.balloon_device)
}
