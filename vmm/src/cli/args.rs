//! Flags and their help. The commands decide what flags mean together.

mod bench;
mod client;
mod compaction;
mod list;
mod serve;
mod stop;
mod swap;

pub(super) use bench::{BenchArgs, BenchCommand, HugepagesArgs};
pub(super) use client::{BalloonArgs, BalloonCommand, CheckArgs, MemoryArgs, MemoryCommand, Target, WaitFor};
pub(super) use compaction::{TuningArgs, When};
pub(super) use list::ListArgs;
pub(super) use serve::ServeArgs;
pub(super) use stop::StopArgs;
pub(super) use swap::{SwapArgs, SwapCommand, SwapServeArgs};

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use memsvc::core::compact::PolicyKind;

use super::{
    run::{Disk, Network, SwapDevice},
    size,
};
use crate::socket::SocketMode;
use crate::vm::config::{Kib, Mib, WatermarksConfig};

/// Where Firecracker's form serves the API if nobody says otherwise.
pub(super) const DEFAULT_SOCKET: &str = "/run/aerostat.socket";

/// Lines are short enough for any terminal.
const EXAMPLES: &str = "\
Examples:
  Start a guest and give it a balloon:
    aerostat run --kernel vmlinuz --initrd initrd.img \\
        --memory 1G --cpus 2
  Take 256 MiB from it, and wait until they are given up:
    aerostat balloon set 256 --wait
  See what the memory service has and did:
    aerostat memory show
  Have 128 MiB back that it does not use, in huge pages:
    aerostat memory reclaim 128
  Serve the API for a program that drives Firecracker:
    aerostat --api-sock /tmp/a.sock --id my-guest

Sizes: 512M, 512MiB, 1.5G; a bare number is of MiB.

Exit codes:
  0      the guest powered off or reset, or a signal came
  1      an error
  2      wrong arguments; 153 without a command
  3      the guest's kernel panicked
  128+N  a second signal N, which ends the process at once;
         for console, the first";

/// Runs Linux guests under KVM and keeps the host's memory whole while it does.
///
/// Without a command it takes Firecracker's arguments: it serves the API on a socket and waits to be
/// told what to start.
#[derive(Debug, Parser)]
#[command(name = "aerostat", version, args_conflicts_with_subcommands = true)]
#[command(after_help = EXAMPLES)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) serve: ServeArgs,
}

impl Cli {
    /// Whether the answer is for a machine.
    pub(super) fn json(&self) -> bool {
        match &self.command {
            None => self.serve.json,
            Some(Command::Run(args)) => args.json,
            Some(Command::Balloon(args)) => args.target().json,
            Some(Command::Memory(args)) => args.target().json,
            Some(Command::Check(args)) => args.json,
            Some(Command::Bench(args)) => args.json(),
            Some(Command::Swap(args)) => args.json(),
            Some(Command::Completions { .. } | Command::Man { .. } | Command::Openapi) => false,
            Some(Command::List(args)) => args.json,
            Some(Command::Pause(target) | Command::Resume(target) | Command::Console(target)) => target.json,
            Some(Command::Stop(args)) => args.target.json,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start a guest and stay with it until it ends
    Run(Box<RunArgs>),
    /// Show the guests that run
    #[command(visible_alias = "ps")]
    List(ListArgs),
    /// Attach this terminal to the serial console of a guest; ^] leaves it
    Console(Target),
    /// Stop the vCPUs of a guest; its memory stays
    Pause(Target),
    /// Let the vCPUs of a guest go on
    Resume(Target),
    /// Shut a guest down by Ctrl-Alt-Del, and power it off if that does not help
    Stop(StopArgs),
    /// Set or read the balloon of a running guest
    Balloon(BalloonArgs),
    /// Show what the memory service of a running guest has and did, compact it, have memory back
    Memory(MemoryArgs),
    /// Show a guest's swap, or serve swap without a guest
    Swap(SwapArgs),
    /// Say whether this host can run guests, and what it lacks
    Check(CheckArgs),
    /// Measure this host
    Bench(BenchArgs),
    /// Print completions of this command line for a shell, which ci/install puts in their place
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages of this command line into a directory, as ci/install does
    Man {
        /// A directory that is there
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print the OpenAPI description of the API
    #[command(hide = true)]
    Openapi,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Kernel: a bzImage, or an ELF with a PVH note. Required unless --config-file names one
    #[arg(long, value_name = "PATH", required_unless_present = "config_file")]
    pub(super) kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "PATH")]
    pub(super) initrd: Option<PathBuf>,
    /// Kernel command line; pci=off and root= are added [default: console=ttyS0 reboot=k panic=-1]
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub(super) append: Option<String>,
    /// Raw disk image or block device, read-only with ",ro"; also as path=PATH,readonly=on; may be repeated. Without an
    /// initrd and without root= in --append, the first is the root device
    #[arg(long, value_name = "PATH[,ro]")]
    pub(super) disk: Vec<Disk>,
    /// Network card on a TAP interface of the host; may be repeated. ",mac=MAC" is the address, which is derived from
    /// --id and the interface if left out. ",mtu=BYTES" is the largest packet that the guest is told of
    #[arg(long, value_name = "tap=NAME[,...]")]
    pub(super) net: Vec<Network>,
    /// A swap device of this size for the guest, in memory, packed: 2G, or a number of MiB. Options follow, each after a
    /// comma: memory=512M is the most that the pages may take (64G at most). compression=zstd, or none, is instead of
    /// lz4. tier=WHERE, which may be repeated, is where pages go that do not fit, encrypted. WHERE is a directory on a
    /// disk as /PATH, or an NBD server as nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH. Such a server may
    /// be away for timeout=30 seconds. The guest reaches the device by NBD at 169.254.83.1 on a network card of its own,
    /// as 169.254.83.2/30. With front=blk the device is a disk, for kernels without NBD
    #[arg(long, value_name = "SIZE[,...]")]
    pub(super) swap: Option<SwapDevice>,
    /// Memory of the guest: 512M, 1.5G, or a number of MiB [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = size::memory, allow_hyphen_values = true)]
    pub(super) memory: Option<Mib>,
    /// Number of vCPUs, 1 to 32 [default: 1]
    #[arg(long, value_name = "N", value_parser = size::cpus, allow_hyphen_values = true)]
    pub(super) cpus: Option<u32>,
    /// Most memory of the host for the guest's memory and its swap together: 2G, or a number of MiB. The least is
    /// somewhat more than --memory [default: as much as both can come to]
    #[arg(long, value_name = "SIZE", value_parser = size::memory, allow_hyphen_values = true)]
    pub(super) memory_limit: Option<Mib>,
    /// Memory that stays free for work that frees memory, such as swapping out. The size is 4M, 512K, or a number of
    /// MiB, in multiples of 4K; 0 is none [default: by Linux's formula]
    #[arg(long, value_name = "SIZE", value_parser = size::kib, conflicts_with = "watermarks", allow_hyphen_values = true)]
    pub(super) min_free: Option<Kib>,
    /// Watermarks of the frame allocator: 4M,5M,6M, or numbers of MiB; K is for KiB, in multiples of 4
    /// [default: by Linux's formula]
    #[arg(long, value_name = "MIN,LOW,HIGH", value_parser = size::watermarks, allow_hyphen_values = true)]
    pub(super) watermarks: Option<WatermarksConfig>,
    /// Start though the host may swap the guest, and the version of its kernel does not tell of the fixes that this needs.
    /// You know that the kernel has them (see aerostat check)
    #[arg(long)]
    pub(super) allow_host_swap: bool,
    /// Policy by which memory is compacted: occupancy, scanner, or off [default: occupancy]
    #[arg(long, value_name = "POLICY")]
    pub(super) compaction: Option<PolicyKind>,
    #[command(flatten)]
    pub(super) when: When,
    /// Memory that the guest is asked to give up from the start: 256M, or a number of MiB [default: 0]
    #[arg(long, value_name = "SIZE", value_parser = size::size, allow_hyphen_values = true)]
    pub(super) balloon: Option<Mib>,
    /// Let the guest take memory back when it would otherwise kill a process
    #[arg(long)]
    pub(super) balloon_deflate_on_oom: bool,
    /// Ask the guest for statistics this often; 0: never [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = size::seconds, allow_hyphen_values = true)]
    pub(super) balloon_stats: Option<u16>,
    /// Let the guest report free pages by itself
    #[arg(long)]
    pub(super) balloon_reporting: bool,
    /// Let the guest be asked for a list of its free pages
    #[arg(long)]
    pub(super) balloon_hinting: bool,
    /// File that receives the serial console, instead of the terminal
    #[arg(long, value_name = "PATH")]
    pub(super) serial: Option<PathBuf>,
    /// Serve the API on this socket [default: one that aerostat list finds, by --id]
    #[arg(long, value_name = "PATH")]
    pub(super) api_sock: Option<PathBuf>,
    /// Permission bits of that socket, which say who may connect: octal, whatever the umask
    #[arg(long, value_name = "MODE", default_value_t = SocketMode::OWNER, requires = "api_sock")]
    pub(super) api_sock_mode: SocketMode,
    /// Name of the guest: 1 to 64 letters, digits or hyphens
    #[arg(long, default_value = "anonymous-instance", value_parser = size::instance_id)]
    pub(super) id: String,
    /// Configuration in Firecracker's JSON; flags change what it says
    #[arg(long, value_name = "FILE")]
    pub(super) config_file: Option<PathBuf>,
    /// Say why the guest ended as JSON
    #[arg(long)]
    pub(super) json: bool,
}
