//! A guest, put together from its configuration.
//!
//! ```text
//!   memory service ─▶ KVM, memory slots ─▶ platform (devices) ─▶ kernel, ACPI ─▶ vCPUs
//! ```
//!
//! It is taken apart in the opposite order, which is the order of the fields of [`Machine`]: first
//! those who touch guest memory, last the service that owns it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memsvc::core::compact::Tuning;
use memsvc::guard::Guard;
use memsvc::stats::{BuddyInfo, Compacted, CompactionInfo, Reclaimed, SlabInfo, TypeInfo, ZoneInfo};
use memsvc::swap::SwapStats;
use memsvc::{Config, MemoryService, MemoryStats};
use serde_json::{Map, Value};

use super::bus::Bus;
use super::config::{Mib, RateLimiter, SwapConfig, VmConfig};
use super::event_loop::EventLoop;
use super::exit::{Exit, ExitSlot};
use super::kvm::{self, Vm};
use super::memory::guest_memory;
use super::platform::{Networks, Platform, PlatformMetrics, SwapMetrics};
use super::vcpu::{Surroundings, Vcpus};
use crate::api::control::{ActionError, Compaction, LaunchError, Launcher, RunningVm, Statistics};
use crate::api::types::{GuestStats, HintingStatus, SwapFrontCounters};
use crate::arch::acpi::{self, Hardware};
use crate::arch::cpuid::Template;
use crate::arch::kernel::{self, BootSource};
use crate::arch::{cmdline, layout, mptable, rom};
use crate::devices::legacy::terminal::RawMode;
use crate::devices::legacy::{Attached, Console, ConsoleOutput, GuestEnd, I8042, Power};
use crate::devices::virtio::balloon::{BalloonControl, BalloonError};
use crate::devices::virtio::blk::Drives;
use crate::devices::virtio::lock;
use crate::devices::virtio::net::Taps;

/// How long output that waits may take to be written at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// Launches guests on this host's KVM.
#[derive(Debug)]
pub struct KvmLauncher;

/// A running guest. The order of the fields is the order in which they go.
pub struct Machine {
    vcpus: Vcpus,
    _devices: EventLoop,
    _reclaim: EventLoop,
    console: ConsoleOutput,
    attachable: Console,
    _terminal: Option<RawMode>,
    balloon: Option<Arc<BalloonControl>>,
    drives: Drives,
    networks: Networks,
    /// What the guest sees of its swap did.
    swap_front: Option<SwapMetrics>,
    keyboard: Arc<Mutex<I8042>>,
    metrics: PlatformMetrics,
    ports: Arc<Bus>,
    mmio: Arc<Bus>,
    _vm: Vm,
    memory: Arc<MemoryService>,
}

impl Launcher for KvmLauncher {
    fn launch(
        &self,
        id: &str,
        config: &VmConfig,
        taps: &mut Taps,
        exit: &Arc<ExitSlot>,
    ) -> Result<Box<dyn RunningVm>, LaunchError> {
        Ok(Box::new(Machine::launch(id, config, taps, exit)?))
    }
}

impl Machine {
    /// Puts a guest together and lets it run.
    ///
    /// # Errors
    /// As [`Launcher::launch`].
    pub fn launch(
        id: &str,
        config: &VmConfig,
        taps: &mut Taps,
        exit: &Arc<ExitSlot>,
    ) -> Result<Self, LaunchError> {
        let machine = Self::build(id, config, taps, exit)?;
        machine.vcpus.resume();
        Ok(machine)
    }

    /// The service that owns its memory.
    pub fn memory(&self) -> &Arc<MemoryService> {
        &self.memory
    }

    fn build(
        id: &str,
        config: &VmConfig,
        taps: &mut Taps,
        exit: &Arc<ExitSlot>,
    ) -> Result<Self, LaunchError> {
        let boot = config.require_boot_source().map_err(LaunchError::new)?;
        let bytes = config.machine_config.mem_size_mib.bytes().unwrap_or(u64::MAX);
        let cpus = u8::try_from(config.machine_config.vcpu_count).map_err(LaunchError::new)?;

        let power = Arc::new(Power::new({
            let exit = Arc::clone(exit);
            move |end| exit.set(reason(end))
        }));
        let kvm = kvm::open().map_err(LaunchError::new)?;
        let regions = layout::ram_regions(bytes).map_err(LaunchError::new)?;
        let failed = {
            let power = Arc::clone(&power);
            move |why| power.failed(why)
        };
        let guard = Guard::new(failed.clone());
        let watermarks = config.memory.watermark_choice(config.machine_config.mem_size_mib);
        let watermarks = watermarks.map_err(LaunchError::new)?;
        let limit = config.memory.limit_mib.map(|limit| limit.bytes().unwrap_or(u64::MAX));
        let compaction = config.memory.compaction.tuning();
        let swap = config.swap.as_ref().map(SwapConfig::device);
        let allow_host_swap = config.memory.allow_host_swap;
        let service =
            Config { regions: regions.clone(), limit, watermarks, compaction, swap, allow_host_swap };
        let memory = MemoryService::new(&service, failed).map_err(LaunchError::new)?;
        exit.at_exit({
            // Whatever waits for memory then may hold what the main thread needs to end the guest.
            let memory = Arc::downgrade(&memory);
            move || memory.upgrade().iter().for_each(|memory| memory.end_guest())
        });
        let ram = guest_memory(memory.regions()).map_err(LaunchError::new)?;

        let mut vm = Vm::new(&kvm).map_err(LaunchError::new)?;
        let cpuid = Template::new(&kvm, cpus).map_err(LaunchError::new)?;
        vm.set_memory(memory.regions(), cpuid.address_bits()).map_err(LaunchError::new)?;

        let platform = Platform::new(id, config, taps, &mut vm, &memory, &power, &guard)?;
        debug_assert_eq!(platform.slots.len(), config.device_count(), "each has a word on the command line");
        let hardware = Hardware { cpus, devices: &platform.slots, ..Hardware::default() };
        let rsdp = acpi::write_tables(&ram, &hardware).map_err(LaunchError::new)?;
        rom::write(&ram).map_err(LaunchError::new)?;
        mptable::write(&ram, cpus).map_err(LaunchError::new)?;
        let cmdline = config.kernel_command_line().map_err(LaunchError::new)?;
        let cmdline = cmdline::with_devices(&cmdline, &platform.slots).map_err(LaunchError::new)?;
        let source = BootSource {
            kernel: &boot.kernel_image_path,
            initrd: boot.initrd_path.as_deref(),
            cmdline: &cmdline,
        };
        let entry = kernel::load(&ram, &regions, &source, rsdp).map_err(LaunchError::new)?;

        let Platform {
            ports,
            mmio,
            subscribers,
            reclaimers,
            balloon,
            drives,
            networks,
            swap_front,
            keyboard,
            console,
            attachable,
            terminal,
            metrics,
            ..
        } = platform;
        let (ports, mmio) = (Arc::new(ports), Arc::new(mmio));
        let surroundings = Surroundings { ports: Arc::clone(&ports), mmio: Arc::clone(&mmio), power };
        let vcpus =
            Vcpus::start(&vm, cpus, &cpuid, &ram, entry, &surroundings, &guard).map_err(LaunchError::new)?;
        let devices = EventLoop::start("devices", &guard, || (), subscribers).map_err(LaunchError::new)?;
        let touched_all = {
            let reclaimer = Arc::clone(memory.reclaimer());
            move || reclaimer.done()
        };
        let reclaim =
            EventLoop::start("reclaim", &guard, touched_all, reclaimers).map_err(LaunchError::new)?;
        Ok(Self {
            vcpus,
            _devices: devices,
            _reclaim: reclaim,
            console,
            attachable,
            _terminal: terminal,
            balloon,
            drives,
            networks,
            swap_front,
            keyboard,
            metrics,
            ports,
            mmio,
            _vm: vm,
            memory,
        })
    }

    fn balloon(&self) -> Result<&BalloonControl, ActionError> {
        self.balloon
            .as_deref()
            .ok_or_else(|| ActionError::new("This guest has no balloon; configure one before it starts."))
    }
}

fn refused(error: BalloonError) -> ActionError {
    ActionError::new(error.to_string())
}

fn reason(end: GuestEnd) -> Exit {
    match end {
        GuestEnd::PowerOff => Exit::PowerOff,
        GuestEnd::Reset => Exit::Reset,
        GuestEnd::Panic(message) => Exit::Panic(message),
        GuestEnd::Error(sentence) => Exit::Error(sentence),
    }
}

impl RunningVm for Machine {
    fn pause(&mut self, limit: Duration) -> usize {
        self.vcpus.pause(limit)
    }

    fn resume(&mut self) {
        self.vcpus.resume();
    }

    fn is_paused(&self) -> bool {
        self.vcpus.is_paused()
    }

    fn set_balloon(&mut self, amount: Mib) -> Result<(), ActionError> {
        let amount = u32::try_from(amount.0).unwrap_or(u32::MAX);
        self.balloon()?.set_target_mib(amount).map_err(refused)
    }

    fn balloon_pages(&self) -> u64 {
        self.memory.ballooned_frames()
    }

    fn host_freed_pages(&self) -> u64 {
        self.memory.host_freed_frames()
    }

    fn balloon_stats(&self) -> Result<GuestStats, ActionError> {
        self.balloon()?.stats().map_err(refused)
    }

    fn set_stats_interval(&mut self, seconds: u16) -> Result<(), ActionError> {
        self.balloon()?.set_stats_interval(seconds).map_err(refused)
    }

    fn statistics(&self) -> Option<Arc<dyn Statistics>> {
        Some(Arc::clone(self.balloon.as_ref()?) as Arc<dyn Statistics>)
    }

    fn hinting_start(&mut self, acknowledge_on_stop: bool) -> Result<(), ActionError> {
        self.balloon()?.hinting_start(acknowledge_on_stop).map_err(refused)
    }

    fn hinting_stop(&mut self) -> Result<(), ActionError> {
        self.balloon()?.hinting_stop().map_err(refused)
    }

    fn hinting_status(&self) -> Result<HintingStatus, ActionError> {
        self.balloon()?.hinting_status().map_err(refused)
    }

    fn update_drive(
        &mut self,
        drive_id: &str,
        path: Option<&Path>,
        limits: RateLimiter,
    ) -> Result<(), ActionError> {
        let unknown = || ActionError::new(format!("The guest has no drive \"{drive_id}\"."));
        let updated = self.drives.update(drive_id, path, limits.limits()).ok_or_else(unknown)?;
        updated.map_err(|cause| ActionError::caused(format!("Drive \"{drive_id}\" stays as it is"), cause))
    }

    fn limit_network(&mut self, iface_id: &str, rx: RateLimiter, tx: RateLimiter) -> Result<(), ActionError> {
        let unknown = || ActionError::new(format!("The guest has no network interface \"{iface_id}\"."));
        let network = self.networks.get(iface_id).ok_or_else(unknown)?;
        network.set_limits(rx.limits(), tx.limits());
        Ok(())
    }

    fn memory_stats(&self) -> MemoryStats {
        self.memory.stats()
    }

    fn buddy_info(&self) -> BuddyInfo {
        self.memory.buddy_info()
    }

    fn type_info(&self) -> TypeInfo {
        self.memory.type_info()
    }

    fn zone_info(&self) -> ZoneInfo {
        self.memory.zone_info()
    }

    fn slab_info(&self) -> SlabInfo {
        self.memory.slab_info()
    }

    fn swap_stats(&self) -> Option<(SwapStats, SwapFrontCounters)> {
        Some((self.memory.swap()?.stats(), self.swap_front.as_ref()?.snapshot()))
    }

    fn compaction_info(&self) -> CompactionInfo {
        self.memory.compaction_info()
    }

    fn tune_compaction(&mut self, tuning: Tuning) -> Result<(), ActionError> {
        self.memory.tune_compaction(tuning).map_err(|error| ActionError::new(error.to_string()))
    }

    fn compaction(&self) -> Arc<dyn Compaction> {
        Arc::clone(&self.memory) as Arc<dyn Compaction>
    }

    fn send_ctrl_alt_del(&mut self) -> Result<(), ActionError> {
        if lock(&self.keyboard).ctrl_alt_del() {
            return Ok(());
        }
        Err(ActionError::new("The guest does not listen to its keyboard; its kernel needs an i8042 driver."))
    }

    fn attach_console(&mut self) -> Result<Attached, ActionError> {
        let attached = self.attachable.attach();
        let attached =
            attached.map_err(|cause| ActionError::caused("The console cannot be attached to", cause))?;
        attached.ok_or_else(|| {
            ActionError::new("Another client is attached to the guest's console: detach it first.")
        })
    }

    fn metrics(&self) -> Map<String, Value> {
        let mut metrics = self.metrics.snapshot();
        metrics.insert("vcpus".to_owned(), self.vcpus.exits());
        metrics.insert("bus".to_owned(), Platform::bus_metrics(&self.ports, &self.mmio));
        metrics
    }
}

impl Statistics for BalloonControl {
    fn ask(&self) -> u64 {
        self.ask_for_stats()
    }

    fn told(&self) -> u64 {
        self.stats_updates()
    }
}

/// Who still compacts when the machine goes keeps the service, and its mappings, until the next block.
impl Compaction for MemoryService {
    fn compact(&self, goes_on: &dyn Fn() -> bool) -> Compacted {
        MemoryService::compact(self, goes_on)
    }

    fn reclaim(&self, bytes: u64, goes_on: &dyn Fn() -> bool) -> Reclaimed {
        MemoryService::reclaim(self, bytes, goes_on)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.memory.end_guest();
        self.vcpus.end();
        self.console.drain(DRAIN);
    }
}
