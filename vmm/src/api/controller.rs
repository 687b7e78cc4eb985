//! Calls that are allowed in each phase, and the configuration until it is used.
//!
//! ```text
//!                  InstanceStart            PATCH /vm Paused
//!   Not started ─────────────────▶ Running ──────────────────▶ Paused
//!   PUT, PATCH of                  balloon, statistics,  ◀──── Resumed
//!   configuration                  hinting, memory, limits, actions: in both
//!                                  (tuning of compaction: before the start, too)
//! ```
//!
//! Every change of configuration goes to a copy that is validated before it is kept.

mod balloon;
mod compaction;
mod drive;
mod error;
mod network;

pub use error::ControlError;

use std::{sync::Arc, time::Duration};

use super::{
    control::{Launcher, RunningVm},
    fault::sentence,
    logger::Logger,
    metrics::{Counted, MetricsFile, Missed, Requests, Startup},
    prometheus::{Running, Scrape},
    types::{ActionType, InstanceInfo, InstanceState, MachineConfigUpdate, MemoryReport, SwapReport},
};
use crate::devices::legacy::Attached;
use crate::devices::virtio::net::Taps;
use crate::vm::{
    config::{
        BalloonConfig, BootSource, ConfigError, EntropyConfig, LoggerConfig, MachineConfig, MemoryLimits,
        MetricsConfig, SerialConfig, SwapConfig, VmConfig, WatermarksConfig,
    },
    exit::ExitSlot,
};

/// Name of this program.
pub const APP_NAME: &str = "Aerostat";
/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Version of Firecracker whose API this program speaks. It is what clients of Firecracker are told.
pub const API_VERSION: &str = "1.16.1";

/// The one who knows whether the guest runs.
pub struct Controller {
    id: String,
    launcher: Arc<dyn Launcher>,
    logger: Logger,
    exit: Arc<ExitSlot>,
    config: VmConfig,
    requests: Arc<Requests>,
    startup: Startup,
    metrics: Option<MetricsFile>,
    /// The TAP interfaces of the configuration, until the guest has them.
    taps: Taps,
    vm: Option<Box<dyn RunningVm>>,
}

impl Controller {
    /// A controller whose guest has not been started.
    pub fn new(id: String, launcher: Arc<dyn Launcher>, logger: Logger, exit: Arc<ExitSlot>) -> Self {
        Self {
            id,
            launcher,
            logger,
            exit,
            config: VmConfig::default(),
            requests: Arc::default(),
            startup: Startup::default(),
            metrics: None,
            taps: Taps::default(),
            vm: None,
        }
    }

    /// The tally of calls, for who serves them.
    pub(super) fn requests(&self) -> Arc<Requests> {
        Arc::clone(&self.requests)
    }

    /// Says how long the start of the process took.
    pub fn set_startup(&mut self, startup: Startup) {
        self.startup = startup;
    }

    /// `GET /`.
    pub fn info(&self) -> InstanceInfo {
        let state = match &self.vm {
            None => InstanceState::NotStarted,
            Some(vm) if vm.is_paused() => InstanceState::Paused,
            Some(_) => InstanceState::Running,
        };
        InstanceInfo {
            id: self.id.clone(),
            state,
            vmm_version: API_VERSION.to_owned(),
            app_name: APP_NAME.to_owned(),
        }
    }

    /// `GET /vm/config`, in every phase.
    pub fn config(&self) -> &VmConfig {
        &self.config
    }

    /// Takes over a whole configuration, as from a file, and opens the outputs it names.
    pub fn load(&mut self, mut config: VmConfig) -> Result<(), ControlError> {
        self.before_start()?;
        if let Some(logger) = config.logger.take() {
            self.set_logger(logger)?;
        }
        if let Some(metrics) = config.metrics.take() {
            self.set_metrics(metrics)?;
        }
        config.round_up();
        config.validate()?;
        config.check_files()?;
        self.hold_taps(&config)?;
        config.order_drives();
        let VmConfig { logger, metrics, .. } = std::mem::take(&mut self.config);
        self.config = VmConfig { logger, metrics, ..config };
        Ok(())
    }

    /// `PUT /boot-source`.
    pub fn set_boot_source(&mut self, boot: BootSource) -> Result<(), ControlError> {
        self.change(|config| {
            boot.check_files()?;
            config.boot_source = Some(boot);
            Ok(())
        })
    }

    /// `PUT /machine-config`.
    pub fn set_machine_config(&mut self, machine: MachineConfig) -> Result<(), ControlError> {
        self.change(|config| {
            config.machine_config = machine;
            Ok(())
        })
    }

    /// `PATCH /machine-config`.
    pub fn update_machine_config(&mut self, update: MachineConfigUpdate) -> Result<(), ControlError> {
        if update == MachineConfigUpdate::default() {
            return Err(ControlError::NothingToChange);
        }
        self.change(|config| {
            let machine = &mut config.machine_config;
            machine.vcpu_count = update.vcpu_count.unwrap_or(machine.vcpu_count);
            machine.mem_size_mib = update.mem_size_mib.unwrap_or(machine.mem_size_mib);
            machine.smt = update.smt.unwrap_or(machine.smt);
            machine.track_dirty_pages = update.track_dirty_pages.unwrap_or(machine.track_dirty_pages);
            machine.huge_pages = update.huge_pages.unwrap_or(machine.huge_pages);
            if update.cpu_template.is_some() {
                machine.cpu_template = update.cpu_template;
            }
            Ok(())
        })
    }

    /// `PUT /memory/watermarks`.
    pub fn set_watermarks(&mut self, watermarks: WatermarksConfig) -> Result<(), ControlError> {
        self.change(|config| {
            config.memory.watermarks = Some(watermarks);
            Ok(())
        })
    }

    /// `PUT /memory/limits`.
    pub fn set_memory_limits(&mut self, limits: MemoryLimits) -> Result<(), ControlError> {
        self.change(|config| {
            let memory = &mut config.memory;
            memory.limit_mib = limits.limit_mib.or(memory.limit_mib);
            memory.min_free_kib = limits.min_free_kib.or(memory.min_free_kib);
            memory.allow_host_swap = limits.allow_host_swap.unwrap_or(memory.allow_host_swap);
            Ok(())
        })
    }

    /// `PUT /balloon`.
    pub fn set_balloon_config(&mut self, balloon: BalloonConfig) -> Result<(), ControlError> {
        self.change(|config| {
            config.balloon = Some(balloon);
            Ok(())
        })
    }

    /// `PUT /entropy`.
    pub fn set_entropy(&mut self, entropy: EntropyConfig) -> Result<(), ControlError> {
        self.change(|config| {
            config.entropy = Some(entropy);
            Ok(())
        })
    }

    /// `PUT /swap`.
    pub fn set_swap(&mut self, swap: SwapConfig) -> Result<(), ControlError> {
        self.change(|config| {
            // What is wrong with its values is said first.
            swap.validate()?;
            swap.check_directories()?;
            config.swap = Some(swap);
            Ok(())
        })
    }

    /// `GET /swap`.
    pub fn swap(&mut self) -> Result<SwapReport, ControlError> {
        let vm = self.running()?;
        let (stats, front) = vm.swap_stats().ok_or(ControlError::NoSwap)?;
        Ok(SwapReport { stats, reserve: vm.zone_info().reserve, front })
    }

    /// `PUT /serial`.
    pub fn set_serial(&mut self, serial: SerialConfig) -> Result<(), ControlError> {
        self.change(|config| {
            serial.check_file()?;
            config.serial = Some(serial);
            Ok(())
        })
    }

    /// `PUT /logger`: takes effect at once.
    pub fn set_logger(&mut self, logger: LoggerConfig) -> Result<(), ControlError> {
        self.before_start()?;
        if self.config.logger.is_some() {
            return Err(ControlError::LoggerTwice);
        }
        self.logger.configure(&logger)?;
        self.config.logger = Some(logger);
        Ok(())
    }

    /// `PUT /metrics`.
    pub fn set_metrics(&mut self, metrics: MetricsConfig) -> Result<(), ControlError> {
        self.before_start()?;
        if self.metrics.is_some() {
            return Err(ControlError::MetricsTwice);
        }
        self.metrics = Some(MetricsFile::open(&metrics, &self.id)?);
        self.config.metrics = Some(metrics);
        Ok(())
    }

    /// `PUT /actions`.
    pub fn act(&mut self, action: ActionType) -> Result<(), ControlError> {
        match action {
            ActionType::InstanceStart => self.start(),
            ActionType::FlushMetrics => {
                self.running()?;
                self.flush_metrics()
            }
            ActionType::SendCtrlAltDel => Ok(self.running()?.send_ctrl_alt_del()?),
        }
    }

    /// Starts the guest. A start that fails can be tried again.
    pub fn start(&mut self) -> Result<(), ControlError> {
        self.before_start()?;
        self.config.validate()?;
        self.config.require_boot_source()?;
        self.config.check_files()?;
        self.vm = Some(self.launcher.launch(&self.id, &self.config, &mut self.taps, &self.exit)?);
        // From now on they are there as long as the guest is.
        self.taps = Taps::default();
        let machine = &self.config.machine_config;
        tracing::info!(version = VERSION, cpus = machine.vcpu_count, memory = %machine.mem_size_mib, "The guest runs");
        // As Firecracker does, so that how long the start took is told at once.
        if let Err(error) = self.flush_metrics() {
            tracing::warn!("{}", sentence(&error));
        }
        Ok(())
    }

    /// `PATCH /vm` with `Paused`: has the guest pause, and waits for it this long; whether it has. It pauses later, or
    /// goes on after [`Self::give_up_pause`].
    pub fn pause(&mut self, limit: Duration) -> Result<bool, ControlError> {
        let is_paused = self.running()?.pause(limit) == 0;
        if is_paused {
            tracing::info!("The guest is paused");
        }
        Ok(is_paused)
    }

    /// A guest that has not paused goes on.
    ///
    /// # Errors
    /// It has not paused.
    pub fn give_up_pause(&mut self) -> Result<(), ControlError> {
        let vm = self.running()?;
        match vm.pause(Duration::ZERO) {
            0 => Ok(()),
            cpus => {
                vm.resume();
                tracing::warn!(cpus, "The guest could not be paused and runs on");
                Err(ControlError::NotPaused { cpus })
            }
        }
    }

    /// `PATCH /vm` with `Resumed`.
    pub fn resume(&mut self) -> Result<(), ControlError> {
        self.running()?.resume();
        tracing::info!("The guest runs on");
        Ok(())
    }

    /// `GET /memory`.
    pub fn memory(&mut self) -> Result<MemoryReport, ControlError> {
        let memory = self.running()?.memory_stats();
        Ok(MemoryReport { balloon_device: self.balloon_progress(), memory })
    }

    /// `GET /metrics`, in every phase.
    pub fn scrape(&self) -> Scrape {
        let running = self.vm.as_ref().map(|vm| Running {
            memory: MemoryReport { balloon_device: self.balloon_progress(), memory: vm.memory_stats() },
            guest: self.guest_stats(vm.as_ref()),
            buddy: vm.buddy_info(),
            types: vm.type_info(),
            zone: vm.zone_info(),
            slabs: vm.slab_info(),
            compaction: vm.compaction_info(),
            swap: vm.swap_stats().map(|(stats, _)| stats),
            devices: vm.metrics(),
        });
        Scrape { info: self.info(), running }
    }

    /// `GET /console`: the streams of a client.
    pub fn attach_console(&mut self) -> Result<Attached, ControlError> {
        Ok(self.running()?.attach_console()?)
    }

    /// Appends a line of metrics, if a file for them was named and the guest was started.
    pub fn flush_metrics(&mut self) -> Result<(), ControlError> {
        let (Some(vm), Some(file)) = (&self.vm, &mut self.metrics) else { return Ok(()) };
        let missed = Missed { metrics: file.missed(), log: self.logger.missed() };
        Ok(file.write(Counted {
            missed,
            config: &self.config,
            devices: vm.metrics(),
            requests: &self.requests,
            startup: self.startup,
        })?)
    }

    /// Ends the guest: last metrics, then its threads, memory and terminal.
    pub fn shut_down(&mut self) -> Result<(), ControlError> {
        let flushed = self.flush_metrics();
        self.vm = None;
        flushed
    }

    fn change(
        &mut self,
        change: impl FnOnce(&mut VmConfig) -> Result<(), ConfigError>,
    ) -> Result<(), ControlError> {
        self.before_start()?;
        let mut changed = self.config.clone();
        change(&mut changed)?;
        changed.round_up();
        changed.validate()?;
        self.config = changed;
        Ok(())
    }

    fn before_start(&self) -> Result<(), ControlError> {
        match self.vm {
            None => Ok(()),
            Some(_) => Err(ControlError::AfterStart),
        }
    }

    /// The guest has this network card, of which no interface is there.
    #[cfg(test)]
    pub(super) fn attach(&mut self, interface: crate::vm::config::NetworkInterface) {
        self.config.set_network_interface(interface);
    }

    /// The guest, if it was started.
    pub(super) fn running(&mut self) -> Result<&mut dyn RunningVm, ControlError> {
        match &mut self.vm {
            Some(vm) => Ok(vm.as_mut()),
            None => Err(ControlError::BeforeStart),
        }
    }
}

#[cfg(test)]
mod tests;
