//! `aerostat swap`: swap devices.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use memsvc::core::units::FRAME_SIZE;
use memsvc::swap::{Swap, SwapConfig, SwapStats};
use serde::Serialize;

use super::args::{SwapArgs, SwapCommand, SwapServeArgs};
use super::memory::{amount::bytes, answer};
use super::table::{self, grouped};
use super::{Outcome, output, signals};
use crate::api::types::SwapReport;
use crate::swap::{Address, Server};
use crate::vm::config::MAX_SWAP_MEMORY;
use crate::vm::exit::ExitSlot;

/// How often what is not needed any more goes back to the host.
const SHRINK: Duration = Duration::from_secs(5);

/// Where a device is served.
#[derive(Serialize)]
struct Served {
    uri: String,
}

/// Does it.
pub(super) fn swap(args: SwapArgs) -> Outcome {
    match args.command {
        SwapCommand::Show(target) => answer(&target, "/swap", human),
        SwapCommand::Serve(args) => serve(&args),
    }
}

/// What `GET /swap` says.
fn human(report: &SwapReport) -> String {
    let SwapStats { store, nbd } = &report.stats;
    let page = FRAME_SIZE as u64;
    let ratio = match store.stored_bytes {
        0 => "-".to_owned(),
        packed => {
            let objects = store.stored_pages.saturating_sub(store.same_filled_pages);
            format!("{:.2}:1", (objects * page) as f64 / packed as f64)
        }
    };
    table::pairs(&[
        ("size", bytes(store.pages * page)),
        ("stored", bytes(store.stored_pages * page)),
        ("  same-filled", format!("{}, which take no memory", bytes(store.same_filled_pages * page))),
        ("  incompressible", bytes(store.incompressible_pages * page)),
        ("packed", format!("{} of at most {}", bytes(store.stored_bytes), bytes(store.limit_bytes))),
        ("table of pages", bytes(store.table_bytes)),
        ("ratio", format!("{ratio}, without what is same-filled")),
        ("swapped out", format!("{} pages", grouped(nbd.pages_written))),
        ("swapped in", format!("{} pages", grouped(nbd.pages_read))),
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
        (
            "refused",
            format!(
                "{} pages for want of room, {} requests, {} connections",
                grouped(store.no_room),
                grouped(nbd.refused),
                grouped(nbd.malformed)
            ),
        ),
        ("lost", format!("{} pages", grouped(store.lost))),
        ("connections", grouped(nbd.connections)),
    ])
}

fn serve(args: &SwapServeArgs) -> Outcome {
    let exit = Arc::new(ExitSlot::default());
    signals::watch(Arc::clone(&exit)).context("Signals cannot be handled")?;
    let config = crate::vm::config::SwapConfig {
        size_mib: args.size,
        // More than there can be for a guest is cut, not refused: nothing is taken that is not used.
        memory_mib: Some(args.memory.unwrap_or(args.size).min(args.size).min(MAX_SWAP_MEMORY)),
        compression: args.compression,
        tiers: args.tiers.clone(),
        tier_timeout: args.tier_timeout,
    };
    config.validate()?;
    let swap = Swap::standalone(&SwapConfig { name: args.name.clone(), ..config.device() })?;
    let address = match (&args.socket, args.listen) {
        (Some(path), _) => Address::Unix(path.clone()),
        (None, Some(address)) => Address::Tcp(address),
        (None, None) => anyhow::bail!("Say where to listen: --socket PATH or --listen ADDRESS:PORT."),
    };
    let server = Server::spawn(&address, swap.clone())?;
    let served = Served { uri: server.address().to_string() };
    output::answer(args.json, &served, |served| format!("{}\n", served.uri))?;
    while exit.wait_timeout(SHRINK).is_none() {
        // It is tried again, and nothing that is stored is lost.
        if let Err(error) = swap.shrink() {
            output::complain(&format!("Memory cannot be given back to the host for now: {error}."));
        }
    }
    Ok(ExitCode::SUCCESS)
}
