//! `fctools`, with the executor that starts the program without a jailer: all calls that it has and we have, and how the
//! others are refused.

mod guest;

use fctools::extension::metrics::Metrics;
use fctools::vm::api::{VmApi, VmApiError};
use fctools::vm::configuration::{InitMethod, VmConfigurationData};
use fctools::vm::models::{
    BalloonDevice, BootSource, CreateSnapshot, Drive, DriveCacheType, DriveIoEngine, EntropyDevice,
    HugePages, LoggerSystem, MachineConfiguration, MetricsSystem, NetworkInterface, RateLimiter,
    StartBalloonFreePageHintingRun, TokenBucket, UpdateBalloonDevice, UpdateBalloonStatistics, UpdateDrive,
    UpdateNetworkInterface,
};
use fctools::vm::shutdown::VmShutdownMethod;
use fctools::vmm::arguments::{VmmApiSocket, VmmArguments, VmmLogLevel, VmmSeccompFilter};
use fctools::vmm::resource::{CreatedResourceType, MovedResourceType, Resource, ResourceType};

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use guest_tests::Kernel;
use guest_tests::testvm::wait_until;
use serde_json::json;

use self::guest::{Guest, Resources};
use crate::stage::{AbsentTap, BOOT_ARGS, MIB, Stage, read};

const TAP: &str = "fctools0";
const DATA_MIB: u64 = 16;
const LATER_MIB: u64 = 24;
/// Odd: a guest gets what works.
const RAM_MIB: usize = 257;
const BALLOON_MIB: u16 = 32;
/// A paused guest answers nothing for so long.
const SILENCE: Duration = Duration::from_millis(500);

/// Configures, drives and ends a guest by the API.
///
/// # Errors
/// A call fails, or does not do what it says.
pub fn by_api(kernel: Kernel) -> anyhow::Result<()> {
    let stage = Stage::new(kernel)?;
    let tap = AbsentTap::new(TAP)?;
    let arguments = |_: &mut Resources| Ok(arguments(&stage));
    let mut guest = Guest::start(&stage, InitMethod::ViaApiCalls, arguments, |resources| {
        let bare = bare(resources, &stage)?;
        Ok(VmConfigurationData {
            drives: vec![data_drive(resources, &stage)?, placeholder(resources, &stage)?],
            network_interfaces: vec![NetworkInterface {
                iface_id: "net1".to_owned(),
                host_dev_name: tap.name(),
                guest_mac: None,
                rx_rate_limiter: Some(limiter()),
                tx_rate_limiter: None,
            }],
            balloon_device: Some(BalloonDevice {
                amount_mib: 0,
                deflate_on_oom: true,
                stats_polling_interval_s: Some(1),
                free_page_reporting: Some(true),
                free_page_hinting: Some(true),
            }),
            logger_system: Some(LoggerSystem {
                logs: Some(created(resources, stage.file("log"))?),
                level: Some(VmmLogLevel::Info),
                show_level: Some(true),
                show_log_origin: Some(false),
                module: None,
            }),
            metrics_system: Some(MetricsSystem { metrics: created(resources, stage.file("metrics"))? }),
            entropy_device: Some(EntropyDevice { rate_limiter: Some(limiter()) }),
            ..bare
        })
    })?;
    ensure!(tap.exists(), "the monitor has made no TAP interface");
    guest.says_what_it_was_told()?;
    guest.keeps_data()?;
    guest.changes_disk_and_limits(&stage)?;
    guest.gives_memory_away()?;
    guest.pauses()?;
    guest.refuses_what_is_not_there(&stage)?;
    guest.counts(&stage.file("metrics"))?;
    read(&stage.file("log"))?;
    let status = guest.end(VmShutdownMethod::CtrlAltDel)?;
    ensure!(status.success(), "the monitor ended with {status} after Ctrl-Alt-Del");
    tap.wait_gone()
}

/// Starts a guest from a configuration file and by arguments; that file has null and empty lists for all that is not
/// configured.
///
/// # Errors
/// As [`by_api`].
pub fn by_file(kernel: Kernel) -> anyhow::Result<()> {
    let stage = Stage::new(kernel)?;
    let arguments = |resources: &mut Resources| {
        Ok(arguments(&stage)
            .log_level(VmmLogLevel::Info)
            .show_log_level()
            .show_log_origin()
            .log_module("vmm")
            .enable_boot_timer()
            .api_max_payload_bytes(64 << 10)
            .mmds_size_limit(64 << 10)
            .logs(created(resources, stage.file("log"))?)
            .metrics(created(resources, stage.file("metrics"))?))
    };
    let how = InitMethod::ViaJsonConfiguration(stage.file("config.json"));
    let mut guest = Guest::start(&stage, how, arguments, |resources| {
        let bare = bare(resources, &stage)?;
        let drives = vec![data_drive(resources, &stage)?];
        Ok(VmConfigurationData { drives, entropy_device: Some(EntropyDevice::default()), ..bare })
    })?;
    guest.says_what_it_was_told()?;
    guest.keeps_data()?;
    guest.call(async |vm| vm.flush_metrics().await)?;
    let metrics = last_metrics(&stage.file("metrics"))?;
    ensure!(metrics.block.write_bytes > 0, "nothing was written: {metrics:?}");
    read(&stage.file("log"))?;
    let status = guest.end(VmShutdownMethod::PauseThenKill)?;
    ensure!(status.code().is_none(), "the monitor was to be killed, but ended with {status}");
    Ok(())
}

fn arguments(stage: &Stage) -> VmmArguments {
    VmmArguments::new(VmmApiSocket::Enabled(stage.file("socket"))).seccomp_filter(VmmSeccompFilter::Disabled)
}

/// The parts that every guest has.
fn bare(resources: &mut Resources, stage: &Stage) -> anyhow::Result<VmConfigurationData> {
    Ok(VmConfigurationData {
        boot_source: BootSource {
            kernel_image: moved(resources, stage.kernel.vmlinuz())?,
            boot_args: Some(BOOT_ARGS.to_owned()),
            initrd: Some(moved(resources, stage.initrd()?)?),
        },
        drives: Vec::new(),
        pmem_devices: Vec::new(),
        machine_configuration: MachineConfiguration {
            vcpu_count: 1,
            mem_size_mib: RAM_MIB,
            smt: Some(true),
            track_dirty_pages: Some(true),
            huge_pages: Some(HugePages::Hugetlbfs2M),
        },
        cpu_template: None,
        network_interfaces: Vec::new(),
        balloon_device: None,
        vsock_device: None,
        logger_system: None,
        metrics_system: None,
        memory_hotplug_configuration: None,
        mmds_configuration: None,
        entropy_device: None,
    })
}

/// A file that is there.
fn moved(resources: &mut Resources, path: PathBuf) -> anyhow::Result<Resource> {
    Ok(resources.create_resource(path, ResourceType::Moved(MovedResourceType::HardLinkedOrCopied))?)
}

/// A file that the crate makes.
fn created(resources: &mut Resources, path: PathBuf) -> anyhow::Result<Resource> {
    Ok(resources.create_resource(path, ResourceType::Created(CreatedResourceType::File))?)
}

fn data_drive(resources: &mut Resources, stage: &Stage) -> anyhow::Result<Drive> {
    Ok(Drive {
        drive_id: "data".to_owned(),
        is_root_device: false,
        cache_type: Some(DriveCacheType::Writeback),
        partuuid: None,
        is_read_only: Some(false),
        block: Some(moved(resources, stage.disk("data", DATA_MIB)?)?),
        rate_limiter: Some(limiter()),
        io_engine: Some(DriveIoEngine::Async),
        socket: None,
    })
}

/// A drive that is to be another file later; until then it has no bytes.
fn placeholder(resources: &mut Resources, stage: &Stage) -> anyhow::Result<Drive> {
    Ok(Drive {
        drive_id: "later".to_owned(),
        is_root_device: false,
        cache_type: None,
        partuuid: None,
        is_read_only: None,
        block: Some(moved(resources, stage.disk("none", 0)?)?),
        rate_limiter: None,
        io_engine: None,
        socket: None,
    })
}

/// Limits that nothing here comes up to.
fn limiter() -> RateLimiter {
    let bucket = |size| TokenBucket { size, one_time_burst: None, refill_time: 1000 };
    RateLimiter { bandwidth: bucket(1 << 30), ops: bucket(1 << 20) }
}

/// The last line of the metrics file, in Firecracker's schema as the crate knows it.
fn last_metrics(path: &Path) -> anyhow::Result<Metrics> {
    let text = read(path)?;
    let line = text.lines().last().context("no line")?;
    serde_json::from_str(line).with_context(|| format!("not Firecracker's metrics: {line}"))
}

impl Guest {
    /// Everything that can be read is as it was put, and the guest sees it.
    fn says_what_it_was_told(&mut self) -> anyhow::Result<()> {
        let info = self.call(async |vm| vm.get_info().await)?;
        ensure!(info.id == guest::ID && !info.is_paused, "{info:?}");
        let version = self.call(async |vm| vm.get_firecracker_version().await)?;
        let numbers: Result<Vec<u32>, _> = version.split('.').map(str::parse).collect();
        ensure!(numbers.is_ok_and(|numbers| numbers.len() == 3), "the version is {version}");
        let machine = self.call(async |vm| vm.get_machine_configuration().await)?;
        let kept = (machine.vcpu_count, machine.smt, machine.track_dirty_pages, machine.huge_pages);
        let told = (1, Some(true), Some(true), Some(HugePages::Hugetlbfs2M));
        ensure!(kept == told && machine.mem_size_mib >= RAM_MIB, "{machine:?}");
        let seen = self.agent.memory()?.total;
        ensure!((200..=RAM_MIB as u64 + 1).contains(&seen), "the guest sees {seen} MiB");
        let random = self.agent.random(64)?;
        ensure!(random.bytes().any(|digit| digit != b'0'), "no random bytes");
        Ok(())
    }

    fn keeps_data(&mut self) -> anyhow::Result<()> {
        self.agent.disk_write("vda", 0, 4 * MIB, 1)?;
        self.agent.disk_flush("vda")?;
        self.agent.disk_verify("vda", 0, 4 * MIB, 1)?;
        Ok(())
    }

    /// The disk without bytes becomes another file, which the guest sees at once; limits change.
    fn changes_disk_and_limits(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let drive = UpdateDrive {
            drive_id: "later".to_owned(),
            block: Some(self.resource(stage.disk("later", LATER_MIB)?)?),
            rate_limiter: Some(limiter()),
        };
        self.call(async |vm| vm.update_drive(drive).await)?;
        let mut bytes = 0;
        let grown = wait_until(|| {
            let disks = self.agent.disks()?;
            bytes = disks.iter().find(|disk| disk.name == "vdb").context("no vdb")?.bytes;
            Ok(bytes == LATER_MIB * MIB)
        })?;
        ensure!(grown, "the guest's vdb has {bytes} bytes");
        self.agent.disk_write("vdb", 20 * MIB, MIB, 2)?;
        self.agent.disk_verify("vdb", 20 * MIB, MIB, 2)?;
        let written = std::fs::read(stage.file("later"))?.iter().any(|byte| *byte != 0);
        ensure!(written, "the new file holds nothing");

        let limits = UpdateDrive { drive_id: "data".to_owned(), block: None, rate_limiter: Some(limiter()) };
        self.call(async |vm| vm.update_drive(limits).await)?;
        let network = UpdateNetworkInterface {
            iface_id: "net1".to_owned(),
            rx_rate_limiter: None,
            tx_rate_limiter: Some(limiter()),
        };
        self.call(async |vm| vm.update_network_interface(network).await)?;
        self.agent.disk_verify("vda", 0, 4 * MIB, 1)?;
        Ok(())
    }

    fn gives_memory_away(&mut self) -> anyhow::Result<()> {
        let balloon = self.call(async |vm| vm.get_balloon_device().await)?;
        ensure!(balloon.amount_mib == 0 && balloon.stats_polling_interval_s == Some(1), "{balloon:?}");
        let amount = UpdateBalloonDevice { amount_mib: BALLOON_MIB };
        self.call(async |vm| vm.update_balloon_device(amount).await)?;
        let arrived = wait_until(|| {
            let statistics = self.call(async |vm| vm.get_balloon_statistics().await)?;
            Ok(statistics.actual_mib == u32::from(BALLOON_MIB) && statistics.total_memory.is_some())
        })?;
        ensure!(arrived, "the balloon does not get to {BALLOON_MIB} MiB, or tells nothing");
        let interval = UpdateBalloonStatistics { stats_polling_interval_s: 2 };
        self.call(async |vm| vm.update_balloon_statistics(interval).await)?;

        let run = StartBalloonFreePageHintingRun { acknowledge_on_stop: true };
        self.call(async |vm| vm.start_balloon_free_page_hinting_run(run).await)?;
        self.call(async |vm| vm.get_balloon_free_page_hinting_run_status().await)?;
        self.call(async |vm| vm.stop_balloon_free_page_hinting_run().await)
    }

    fn pauses(&mut self) -> anyhow::Result<()> {
        self.call(async |vm| vm.pause().await)?;
        ensure!(self.call(async |vm| vm.get_info().await)?.is_paused, "it does not say that it is paused");
        let ping = self.agent.send(guest_tests::Request::Ping)?;
        ensure!(!self.agent.answers_within(ping, SILENCE), "a paused guest answered");
        self.call(async |vm| vm.resume().await)?;
        self.agent.ping()?;
        Ok(())
    }

    /// Calls of Firecracker that are not there are refused by a sentence with their name.
    fn refuses_what_is_not_there(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let value = json!({"latest": {}});
        refused("mmds", self.call(async |vm| vm.create_mmds_untyped(&value).await))?;
        refused("mmds", self.call(async |vm| vm.get_mmds_untyped().await))?;
        refused("hotplug/memory", self.call(async |vm| vm.get_memory_hotplug_status().await))?;
        let mut unwritten = |name| self.unwritten(stage.file(name));
        let (snapshot, mem_file) = (unwritten("snapshot")?, unwritten("memory")?);
        let snapshot = CreateSnapshot { snapshot_type: None, snapshot, mem_file };
        self.call(async |vm| vm.pause().await)?;
        refused("snapshot/create", self.call(async |vm| vm.create_snapshot(snapshot).await))?;
        self.call(async |vm| vm.resume().await)
    }

    /// Metrics count the calls above. Their schema is the crate's own idea of Firecracker's.
    fn counts(&mut self, file: &Path) -> anyhow::Result<()> {
        self.call(async |vm| vm.flush_metrics().await)?;
        let metrics = last_metrics(file)?;
        let (block, balloon) = (&metrics.block, &metrics.balloon);
        ensure!(block.write_bytes >= 5 * MIB && block.flush_count > 0, "disks: {block:?}");
        ensure!(balloon.inflate_count > 0, "balloon: {balloon:?}");
        ensure!(metrics.entropy.entropy_bytes >= 64, "random numbers: {:?}", metrics.entropy);
        ensure!(metrics.vcpu.exit_mmio_write > 0, "drivers write registers: {:?}", metrics.vcpu);
        Ok(())
    }
}

/// An error of the API that names the call.
fn refused<T: std::fmt::Debug>(call: &str, result: anyhow::Result<T>) -> anyhow::Result<()> {
    let Err(error) = result else { bail!("{call} is not refused: {result:?}") };
    match error.downcast_ref::<VmApiError>() {
        Some(VmApiError::ReceivedErrorResponse { status_code, fault_message }) => {
            ensure!(status_code.as_u16() == 400 && fault_message.contains(call), "{call}: {fault_message}");
            Ok(())
        }
        _ => Err(error.context(format!("{call} is refused otherwise than by the API"))),
    }
}
