//! `aerostat swap`: swap devices.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use memsvc::swap::{Swap, SwapConfig};
use serde::Serialize;

use super::args::{SwapArgs, SwapCommand, SwapServeArgs};
use super::{Outcome, output, signals};
use crate::swap::{Address, Server};
use crate::vm::config::Mib;
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
    let SwapCommand::Serve(args) = args.command;
    serve(&args)
}

fn serve(args: &SwapServeArgs) -> Outcome {
    let exit = Arc::new(ExitSlot::default());
    signals::watch(Arc::clone(&exit)).context("Signals cannot be handled")?;
    let bytes = |size: Mib| size.bytes().context("The size is more than can be counted");
    let config = SwapConfig {
        name: args.name.clone(),
        bytes: bytes(args.size)?,
        memory: bytes(args.memory.unwrap_or(args.size))?,
        codec: args.compression,
    };
    let swap = Swap::standalone(&config).context("There is no address space for the swap device")?;
    let address = match (&args.socket, args.listen) {
        (Some(path), _) => Address::Unix(path.clone()),
        (None, Some(address)) => Address::Tcp(address),
        (None, None) => anyhow::bail!("Say where to listen: --socket PATH or --listen ADDRESS:PORT."),
    };
    let server = Server::spawn(&address, swap.clone())?;
    let served = Served { uri: server.address().to_string() };
    output::answer(args.json, &served, |served| format!("{}\n", served.uri))?;
    while exit.wait_timeout(SHRINK).is_none() {
        swap.shrink().context("Memory cannot be given back to the host")?;
    }
    Ok(ExitCode::SUCCESS)
}
