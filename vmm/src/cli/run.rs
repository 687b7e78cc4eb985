//! `aerostat run`: a configuration from flags, started at once.

mod named;

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use anyhow::bail;

use memsvc::swap::Codec;
use named::Named;

use super::{Outcome, args::RunArgs, serve, session::Session, size};
use crate::{
    api::{control::Launcher, logger::Logger, server::MAX_BODY},
    vm::config::{
        BalloonConfig, CacheType, Drive, IoEngine, MacAddress, MemoryConfig, Mib, NetworkInterface,
        SerialConfig, SwapConfig, SwapFront, VmConfig,
    },
};

/// Kernel command line of a guest if nobody says: console on the first serial port, reset through the keyboard controller,
/// and a reset at once after a panic, which ends the process.
const DEFAULT_BOOT_ARGS: &str = "console=ttyS0 reboot=k panic=-1";

/// Memory of a guest if nobody says.
const DEFAULT_MEMORY: Mib = Mib(512);

/// A value of `--disk`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Disk {
    path: PathBuf,
    read_only: bool,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, read_only) = if text.starts_with("path=") || text.starts_with("readonly=") {
            named_parts(text)?
        } else {
            // A path that stands first may have commas.
            let read_only = |end: &str| Some((text.strip_suffix(end)?, true));
            let writable = |end: &str| Some((text.strip_suffix(end)?, false));
            let known = [",ro", ",readonly=on"].into_iter().find_map(read_only);
            let known = known.or_else(|| [",rw", ",readonly=off"].into_iter().find_map(writable));
            match (known, text.rsplit_once(',')) {
                (None, Some((_, option))) if !Path::new(text).exists() => {
                    return Err(format!(
                        "\"{option}\" is not known: write PATH, or PATH,ro for a read-only disk"
                    ));
                }
                _ => known.unwrap_or((text, false)),
            }
        };
        match path {
            "" => Err("name a disk image or a block device: write PATH, or path=PATH".to_owned()),
            path => Ok(Self { path: path.into(), read_only }),
        }
    }
}

/// Path of a disk and whether the guest may only read it, of `path=PATH,readonly=on`.
fn named_parts(text: &str) -> Result<(&str, bool), String> {
    let (mut path, mut read_only) = (None, None);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("path", value)) if path.is_none() => path = Some(value),
            Some(("readonly", value @ ("on" | "off"))) if read_only.is_none() => {
                read_only = Some(value == "on");
            }
            _ => {
                return Err(format!(
                    "\"{part}\" is not known, or given twice: write path=PATH, and readonly=on or readonly=off, each once"
                ));
            }
        }
    }
    Ok((path.unwrap_or_default(), read_only.unwrap_or_default()))
}

/// A value of `--net`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Network {
    tap: String,
    mac: Option<MacAddress>,
    mtu: Option<u16>,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut tap, mut mac, mut mtu) = (None, None, None);
        for part in text.split(',') {
            let wrong =
                || format!("\"{part}\" is not known: write tap=NAME, mac=MAC or mtu=BYTES, each once");
            match part.split_once('=') {
                Some(("tap", value)) if tap.is_none() => tap = Some(value.to_owned()),
                Some(("mac", value)) if mac.is_none() => mac = Some(value.parse()?),
                Some(("mtu", value)) if mtu.is_none() => {
                    let bytes =
                        value.parse().map_err(|_| "write a number of bytes from 68 to 65535 for mtu")?;
                    mtu = Some(bytes);
                }
                _ => return Err(wrong()),
            }
        }
        let tap = tap.ok_or("name a TAP interface of the host: write tap=NAME")?;
        Ok(Self { tap, mac, mtu })
    }
}

/// A value of `--swap`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SwapDevice(SwapConfig);

impl FromStr for SwapDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (size, rest) = text.split_once(',').map_or((text, None), |(size, rest)| (size, Some(rest)));
        let mut config = SwapConfig {
            size_mib: size::device(size)?,
            memory_mib: None,
            compression: Codec::default(),
            front: SwapFront::default(),
            tiers: Vec::new(),
            tier_timeout: None,
        };
        let (mut is_packed, mut has_front) = (false, false);
        for part in rest.into_iter().flat_map(|rest| rest.split(',')) {
            match part.split_once('=') {
                Some(("memory", value)) if config.memory_mib.is_none() => {
                    config.memory_mib = Some(size::device(value)?);
                }
                Some(("compression", value)) if !is_packed => {
                    config.compression = value.parse()?;
                    is_packed = true;
                }
                Some(("front", value @ ("net" | "blk"))) if !has_front => {
                    config.front = if value == "blk" { SwapFront::Blk } else { SwapFront::Net };
                    has_front = true;
                }
                Some(("tier", value)) => config.tiers.push(value.to_owned()),
                Some(("timeout", value)) if config.tier_timeout.is_none() => {
                    config.tier_timeout = Some(size::timeout(value)?);
                }
                _ => {
                    return Err(format!(
                        "\"{part}\" is not known, or given twice: write memory=SIZE, compression=lz4, zstd or none, \
                         front=net or blk, or timeout=SECONDS, each once, or tier=DIRECTORY or NBD-URI"
                    ));
                }
            }
        }
        if config.tier_timeout.is_some() && config.tiers.is_empty() {
            return Err("timeout is a server's: name one with tier=NBD-URI, or leave it out".to_owned());
        }
        Ok(Self(config))
    }
}

/// Does it.
pub(super) fn run(args: Box<RunArgs>, launcher: Arc<dyn Launcher>) -> Outcome {
    let logger = Logger::of_process(&args.id);
    let config = Some(config(&args)?);
    let named = Named::by(&args);
    let RunArgs { id, api_sock, api_sock_mode, allow_host_swap, json, .. } = *args;
    Session {
        id,
        logger,
        metrics: None,
        startup: None,
        is_served: true,
        api_sock: api_sock.as_deref(),
        api_sock_mode,
        leaves_socket: false,
        max_body: MAX_BODY,
        config,
        allow_host_swap,
        json,
    }
    .live(launcher)
    .or_else(|error| named.fail(&error))
}

/// The configuration file if there is one, else defaults; then the flags on top.
pub(super) fn config(args: &RunArgs) -> anyhow::Result<VmConfig> {
    let mut config = match &args.config_file {
        Some(path) => serve::read_config(path)?,
        None => defaults(),
    };
    boot(&mut config, args)?;
    let machine = &mut config.machine_config;
    machine.mem_size_mib = args.memory.unwrap_or(machine.mem_size_mib);
    machine.vcpu_count = args.cpus.unwrap_or(machine.vcpu_count);
    memory(&mut config.memory, args);
    config.memory.compaction = config.memory.compaction.changed_by(args.when.with(args.compaction));
    if let Some(path) = &args.serial {
        config.serial = Some(SerialConfig { serial_out_path: Some(path.clone()), rate_limiter: None });
    }
    balloon(&mut config, args);
    disks(&mut config, args);
    networks(&mut config, args);
    config.swap = args.swap.as_ref().map(|swap| swap.0.clone()).or(config.swap);
    Ok(config)
}

/// What stays free, and of how much, as the file says it, changed by the flags that are given.
fn memory(config: &mut MemoryConfig, args: &RunArgs) {
    config.limit_mib = args.memory_limit.or(config.limit_mib);
    // Each says what stays free: a flag takes the place of either.
    if args.min_free.is_some() || args.watermarks.is_some() {
        (config.min_free_kib, config.watermarks) = (args.min_free, args.watermarks);
    }
}

/// What the file says of the boot, changed by the flags that are given.
fn boot(config: &mut VmConfig, args: &RunArgs) -> anyhow::Result<()> {
    let boot = config.boot_source.get_or_insert_default();
    if let Some(kernel) = &args.kernel {
        boot.kernel_image_path.clone_from(kernel);
    }
    if boot.kernel_image_path.as_os_str().is_empty() {
        bail!("The configuration file names no kernel: name one with --kernel.");
    }
    boot.initrd_path = args.initrd.clone().or(boot.initrd_path.take());
    let line = args.append.clone().or(boot.boot_args.take());
    boot.boot_args = Some(line.unwrap_or_else(|| DEFAULT_BOOT_ARGS.to_owned()));
    Ok(())
}

fn defaults() -> VmConfig {
    let mut config = VmConfig::default();
    config.machine_config.mem_size_mib = DEFAULT_MEMORY;
    config.balloon = Some(NO_BALLOON);
    config
}

/// An empty balloon. Guests of `run` have at least that, so that one can be set and looked at later.
const NO_BALLOON: BalloonConfig = BalloonConfig {
    amount_mib: Mib(0),
    deflate_on_oom: false,
    stats_polling_interval_s: 5,
    free_page_hinting: false,
    free_page_reporting: false,
};

fn balloon(config: &mut VmConfig, args: &RunArgs) {
    let asked = args.balloon.is_some()
        || args.balloon_stats.is_some()
        || args.balloon_deflate_on_oom
        || args.balloon_hinting
        || args.balloon_reporting;
    if !asked {
        return;
    }
    let balloon = config.balloon.get_or_insert(NO_BALLOON);
    balloon.amount_mib = args.balloon.unwrap_or(balloon.amount_mib);
    balloon.stats_polling_interval_s = args.balloon_stats.unwrap_or(balloon.stats_polling_interval_s);
    balloon.deflate_on_oom |= args.balloon_deflate_on_oom;
    balloon.free_page_hinting |= args.balloon_hinting;
    balloon.free_page_reporting |= args.balloon_reporting;
}

/// Adds the disks; the first is the root device if nothing else can be.
fn disks(config: &mut VmConfig, args: &RunArgs) {
    let has_root = config.drives.iter().any(|drive| drive.is_root_device)
        || config.boot_source.as_ref().is_some_and(|boot| {
            let args = boot.boot_args.as_deref().unwrap_or_default();
            boot.initrd_path.is_some() || args.split_whitespace().any(|word| word.starts_with("root="))
        });
    let known = config.drives.len();
    for (index, disk) in args.disk.iter().enumerate() {
        config.drives.push(Drive {
            drive_id: format!("disk{}", known + index),
            is_root_device: index == 0 && !has_root,
            path_on_host: disk.path.clone(),
            is_read_only: disk.read_only,
            partuuid: None,
            cache_type: CacheType::Writeback,
            io_engine: IoEngine::Sync,
            rate_limiter: None,
            socket: None,
        });
    }
}

/// Adds the network cards.
fn networks(config: &mut VmConfig, args: &RunArgs) {
    let known = config.network_interfaces.len();
    for (index, network) in args.net.iter().enumerate() {
        config.network_interfaces.push(NetworkInterface {
            iface_id: format!("net{}", known + index),
            host_dev_name: network.tap.clone(),
            guest_mac: network.mac,
            mtu: network.mtu,
            rx_rate_limiter: None,
            tx_rate_limiter: None,
        });
    }
}
