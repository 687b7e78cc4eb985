//! `aerostat swap`: swap devices.

mod show;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use memsvc::swap::{Swap, SwapConfig};
use serde::Serialize;
use utoipa::ToSchema;

use super::args::{SwapArgs, SwapCommand, SwapServeArgs};
use super::memory::answer;
use super::{Outcome, output, signals};
use crate::api::logger::Logger;
use crate::swap::{Address, Server};
use crate::vm::config::{MAX_SWAP_MEMORY, SwapFront};
use crate::vm::exit::{Exit, ExitSlot};

/// How often what is not needed any more goes back to the host.
const SHRINK: Duration = Duration::from_secs(5);

/// Where a device is served.
#[derive(Serialize, ToSchema)]
pub(super) struct Served {
    /// Where NBD clients find it.
    uri: String,
}

/// Does it.
pub(super) fn swap(args: SwapArgs) -> Outcome {
    match args.command {
        SwapCommand::Show(target) => answer(&target, "/swap", show::human),
        SwapCommand::Serve(args) => serve(&args),
    }
}

fn serve(args: &SwapServeArgs) -> Outcome {
    let exit = Arc::new(ExitSlot::default());
    signals::watch(Arc::clone(&exit)).context("Signals cannot be handled")?;
    let config = crate::vm::config::SwapConfig {
        size_mib: args.size,
        // A device may be larger than its memory can be: nothing is taken that is not used.
        memory_mib: Some(args.memory.unwrap_or(args.size.min(MAX_SWAP_MEMORY))),
        compression: args.compression,
        front: SwapFront::default(),
        tiers: args.tiers.clone(),
        tier_timeout: args.tier_timeout,
    };
    config.validate()?;
    Logger::of_process(&args.name);
    let swap = Swap::standalone(&SwapConfig { name: args.name.clone(), ..config.device() }, &exit.guard())?;
    // Arguments have one of them.
    let address = args.listen.map(Address::Tcp).or(args.socket.clone().map(Address::Unix));
    let address = address.context("Say where to listen: --socket PATH or --listen ADDRESS:PORT")?;
    let server = Server::spawn(&address, swap.clone(), &exit.guard())?;
    let served = Served { uri: server.address().to_string() };
    output::answer(args.json, &served, |served| format!("{}\n", served.uri))?;
    let reason = loop {
        if let Some(reason) = exit.wait_timeout(SHRINK) {
            break reason;
        }
        // It is tried again, and nothing that is stored is lost.
        if let Err(error) = swap.shrink() {
            output::complain(&format!("Memory cannot be given back to the host for now: {error}."));
        }
    };
    match reason {
        Exit::Error(why) => Err(anyhow::anyhow!(why)),
        reason => Ok(ExitCode::from(reason.code())),
    }
}
