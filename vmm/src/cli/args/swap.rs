//! Flags of the commands for swap.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use memsvc::swap::Codec;

use super::{super::size, Target};
use crate::vm::config::Mib;

#[derive(Debug, Args)]
pub(in crate::cli) struct SwapArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: SwapCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SwapCommand {
    /// Show what the swap device of a running guest stores, and what the guest asked for
    Show(Target),
    /// Serve a swap device by NBD to any client, without a guest, until the process is ended
    Serve(SwapServeArgs),
}

impl SwapArgs {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            SwapCommand::Show(target) => target.json,
            SwapCommand::Serve(args) => args.json,
        }
    }
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where").required(true)), override_usage = "aerostat swap serve [OPTIONS] --size <SIZE>")]
pub(in crate::cli) struct SwapServeArgs {
    /// Unix socket to listen on, unless --listen is given
    #[arg(long, value_name = "PATH", group = "where")]
    pub(in crate::cli) socket: Option<PathBuf>,
    /// Address and port to listen on: 127.0.0.1:10809; port 0 is any that is free. Everybody who can connect
    /// can read and write all of it
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = size::listen, group = "where")]
    pub(in crate::cli) listen: Option<SocketAddr>,
    /// Size of the device: 512M, 1.5G, or a number of MiB
    #[arg(long, value_name = "SIZE", value_parser = size::device)]
    pub(in crate::cli) size: Mib,
    /// Most memory for pages, packed: 512M, or a number of MiB, 64G at most. Pages that do not fit go to tiers or are
    /// refused [default: the size]
    #[arg(long, value_name = "SIZE", value_parser = size::device)]
    pub(in crate::cli) memory: Option<Mib>,
    /// How pages are packed: lz4, zstd, or none
    #[arg(long, value_name = "HOW", default_value = "lz4")]
    pub(in crate::cli) compression: Codec,
    /// Where pages go that do not fit into memory, the first that has room; may be repeated. WHERE is a directory on a
    /// disk as /PATH, or an NBD server as nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH
    #[arg(long = "tier", value_name = "WHERE")]
    pub(in crate::cli) tiers: Vec<String>,
    /// Seconds that an NBD server may be away before requests for it fail [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = size::timeout, requires = "tiers")]
    pub(in crate::cli) tier_timeout: Option<u32>,
    /// Name of the export; clients that name none get it, too
    #[arg(long, value_name = "NAME", default_value = "swap", value_parser = size::instance_id)]
    pub(in crate::cli) name: String,
    /// Say where it listens, and errors, as JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
