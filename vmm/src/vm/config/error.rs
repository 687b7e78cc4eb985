//! Errors of a configuration, one sentence each.

use std::{io, path::PathBuf};

use memsvc::core::compact::TuningError;
use memsvc::swap::TierOpenError;

use super::image::conversion;
use super::{Kib, MAX_DEVICES, MAX_MEMORY, MAX_VCPUS, MacAddress, Mib};
use crate::arch::layout::CMDLINE_MAX;
use crate::devices::virtio::blk::NoRing;
use crate::devices::virtio::net::TapError;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nothing to boot.
    #[error("There is no kernel to boot: set boot-source first.")]
    NoBootSource,
    /// The kernel command line cannot be handed to a kernel.
    #[error("boot_args holds a NUL or line break, which a kernel command line cannot: remove it.")]
    BootArgs,
    /// The kernel command line cannot be put together.
    #[error("The kernel command line cannot be made of boot_args and partuuid")]
    CommandLine(#[from] linux_loader::cmdline::Error),
    /// No kernel takes the command line.
    #[error(
        "The kernel command line has {have} bytes, with root= and with words for {devices} devices, and a kernel takes {CMDLINE_MAX}: shorten boot_args."
    )]
    CommandLineTooLong {
        /// Its length.
        have: usize,
        /// Devices that it names.
        devices: usize,
    },
    /// vCPU count out of range.
    #[error("vcpu_count is {0}, but must be 1 to {MAX_VCPUS}.")]
    VcpuCount(u32),
    /// Half a core.
    #[error("vcpu_count is {0}, but must be 1 or even with smt: two vCPUs make a core.")]
    OddVcpus(u32),
    /// No memory.
    #[error("The guest's memory (mem_size_mib) is 0, but a guest needs some: give it 128, or more.")]
    NoMemory,
    /// More than there are numbers for frames.
    #[error("The guest's memory (mem_size_mib) is {0}, but a guest has {MAX_MEMORY} (15 TiB) at most.")]
    MemoryTooLarge(Mib),
    /// CPUs that do not look as they are.
    #[error("cpu_template is set to {0}, which Aerostat does not offer: leave it out.")]
    CpuTemplate(String),
    /// An option that we do not have.
    #[error("{field} is set to {value}, which Aerostat does not offer: leave it out.")]
    NotOffered {
        /// JSON name of the field.
        field: &'static str,
        /// What was asked for.
        value: String,
    },
    /// An id with characters that Firecracker refuses as well.
    #[error("The id \"{0}\" in the path must be of letters, digits or underscores.")]
    BadId(String),
    /// A device without a name.
    #[error("A {0} has an empty id: name it.")]
    NoId(&'static str),
    /// A disk that is nowhere.
    #[error("Drive \"{0}\" has no path_on_host: name a disk image or a block device.")]
    NoPath(String),
    /// A disk that another process serves: vhost-user.
    #[error(
        "Drive \"{0}\" has a socket, but Aerostat does not have vhost-user disks: give path_on_host instead."
    )]
    VhostUser(String),
    /// Two drives of one name in a configuration file.
    #[error("Two drives have the id \"{0}\": give each its own.")]
    DuplicateDrive(String),
    /// Two drives of one file, of which one may be written.
    #[error(
        "Drives \"{}\" and \"{}\" have the same disk {}: give each its own, or make both read-only.",
        drives[0], drives[1], path.display()
    )]
    SharedDisk {
        /// The file, by one of its paths.
        path: PathBuf,
        /// Ids of the two.
        drives: [String; 2],
    },
    /// Two network interfaces of one name in a configuration file.
    #[error("Two network interfaces have the id \"{0}\": give each its own.")]
    DuplicateInterface(String),
    /// Two network cards on one TAP.
    #[error("Two network interfaces have the host_dev_name {0}: give each a TAP interface of its own.")]
    DuplicateTap(String),
    /// Two network cards of one address.
    #[error("Two network interfaces have the guest_mac {0}: give each its own.")]
    DuplicateMac(MacAddress),
    /// A network card with the name of that of the swap device.
    #[error(
        "The iface_id \"{0}\" is that of the swap device's own network card: give the interface another."
    )]
    SwapName(&'static str),
    /// A network card with the address of that of the swap device.
    #[error("The guest_mac {0} is that of the swap device's own network card: give the interface another.")]
    SwapMac(MacAddress),
    /// A link for which no packet is small enough.
    #[error("mtu is {0}, but must be at least 68, which IPv4 needs.")]
    MtuTooSmall(u16),
    /// The TAP interface cannot be had.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The id in the path is not that in the body.
    #[error("The path says interface \"{path}\", but the body says \"{body}\": make them the same.")]
    InterfaceIdMismatch {
        /// Id from the path of the request.
        path: String,
        /// Id from its body.
        body: String,
    },
    /// The id in the path is not that in the body.
    #[error("The path says drive \"{path}\", but the body says \"{body}\": make them the same.")]
    DriveIdMismatch {
        /// Id from the path of the request.
        path: String,
        /// Id from its body.
        body: String,
    },
    /// More devices than there are interrupt lines.
    #[error(
        "There are {drives} drives and {interfaces} network interfaces, but a guest has at most {MAX_DEVICES} of both together, one less with swap."
    )]
    TooManyDevices {
        /// Drives.
        drives: usize,
        /// Network interfaces.
        interfaces: usize,
    },
    /// More than one root device.
    #[error("Both \"{0}\" and \"{1}\" are root devices: a guest has only one.")]
    TwoRoots(String, String),
    /// A partition UUID that is two words.
    #[error("Drive \"{0}\" has a partuuid with a space, which no partition has: remove it.")]
    Partuuid(String),
    /// The balloon cannot hold more than there is.
    #[error("The balloon of {amount} is larger than the guest's memory of {memory}: ask for less.")]
    BalloonTooLarge {
        /// Size of the balloon asked for.
        amount: Mib,
        /// Size of guest memory.
        memory: Mib,
    },
    /// No swap device is of this size.
    #[error("The swap device is of {0}, but must be of 1 MiB to 1 TiB.")]
    SwapSize(Mib),
    /// More memory than could ever be used, or none.
    #[error(
        "The swap device of {size} is to have {memory} of memory, but must have 1 MiB at least, 64 GiB at most, and no more than its size."
    )]
    SwapMemory {
        /// Memory asked for.
        memory: Mib,
        /// Size of the device.
        size: Mib,
    },
    /// Tiers below the swap device that cannot be. The sentence says why.
    #[error("{0}")]
    SwapTier(String),
    /// A directory that cannot have a tier's file.
    #[error("A tier of the swap device cannot be used")]
    SwapDirectory(#[from] TierOpenError),
    /// A watermark within a frame.
    #[error("The watermark {name} is {value}, but must be a multiple of 4 KiB, the size of a frame.")]
    WatermarkNotInFrames {
        /// JSON name of the field.
        name: &'static str,
        /// What was asked for.
        value: Kib,
    },
    /// Watermarks out of order.
    #[error("The watermarks must rise (min <= low <= high), but are min {min}, low {low}, high {high}.")]
    WatermarksDoNotRise {
        /// For whom the reserve is.
        min: Kib,
        /// Where reclaim begins.
        low: Kib,
        /// Where it ends.
        high: Kib,
    },
    /// More is to be kept free than makes sense.
    #[error("The high watermark of {high} is more than half of the guest's memory of {memory}: lower it.")]
    WatermarkTooHigh {
        /// The high watermark asked for.
        high: Kib,
        /// Size of guest memory.
        memory: Mib,
    },
    /// Both say how much is the reserve.
    #[error(
        "The memory section has min_free_kib and watermarks, which both say what stays free: leave one out."
    )]
    MinFreeAndWatermarks,
    /// A reserve within a frame, or of more than makes sense.
    #[error(
        "min_free_kib is {min}, but must be a multiple of 4 KiB, and at most a quarter of the guest's memory of {memory}."
    )]
    MinFree {
        /// What was asked for.
        min: Kib,
        /// Size of guest memory.
        memory: Mib,
    },
    /// Less than the guest alone can come to.
    #[error(
        "The memory limit of {limit} is too low for a guest of {memory}: it must be {least} at least, which is the guest's memory and what stays free."
    )]
    MemoryLimit {
        /// What was asked for.
        limit: Mib,
        /// Size of guest memory.
        memory: Mib,
        /// The least that it can be.
        least: Mib,
    },
    /// Compaction that cannot be.
    #[error(transparent)]
    Compaction(#[from] TuningError),
    /// The kernel has no io_uring for us.
    #[error(transparent)]
    NoRing(#[from] NoRing),
    /// A file that is to be read or written cannot be.
    #[error("The {what} {} cannot be opened", path.display())]
    File {
        /// What the file is for.
        what: &'static str,
        /// Where it is said to be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A disk that may only be read.
    #[error("The disk {} may not be written: attach it read-only or change its permissions", .0.display())]
    NotWritable(PathBuf, #[source] io::Error),
    /// An image of another program's form.
    #[error(
        "The disk {} looks like a {form} image, but disks are raw: convert it ({}), unless its own guest may have made it look so (docs/operate.md).",
        path.display(), conversion(path)
    )]
    NotRaw {
        /// Where it is.
        path: PathBuf,
        /// The form, as people call it.
        form: &'static str,
    },
    /// A directory, a socket, … where a file is needed.
    #[error("The {what} {} is not a {wanted}.", path.display())]
    NotAFile {
        /// What the file is for.
        what: &'static str,
        /// Where it is said to be.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// An empty file.
    #[error("The {what} {} is empty.", path.display())]
    EmptyFile {
        /// What the file is for.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
    },
}

impl ConfigError {
    /// Whether the host's files and devices do not fit, and the configuration may be as it should be.
    #[must_use]
    pub fn is_of_host(&self) -> bool {
        match self {
            Self::File { .. }
            | Self::NotWritable(..)
            | Self::NotRaw { .. }
            | Self::NotAFile { .. }
            | Self::EmptyFile { .. }
            | Self::NoRing(_)
            | Self::SwapDirectory(_) => true,
            Self::Tap(error) => !matches!(error, TapError::Name(_)),
            _ => false,
        }
    }
}
