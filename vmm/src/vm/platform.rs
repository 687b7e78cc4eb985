//! The devices of one guest, at their places on the buses.
//!
//! | place | device | line |
//! | --- | --- | --- |
//! | port 0x3F8 | serial console | 4 |
//! | port 0x60, 0x64 | keyboard controller | 1 |
//! | port 0x600 | ACPI power and reset | |
//! | 0xD000_0000 + 4 KiB each | virtio-mmio: disks in their order, network cards, swap, balloon, rng | 5 and up |

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use memsvc::MemoryService;
use memsvc::guard::Guard;
use memsvc::swap::Swap;
use serde_json::{Map, Value, json};
use vmm_sys_util::eventfd::EventFd;

use super::bus::{Bus, BusDevice};
use super::config::{self, VmConfig};
use super::console;
use super::event_loop::Subscriber;
use super::kvm::Vm;
use super::memory::guest_ram;
use crate::api::control::LaunchError;
use crate::api::types::SwapFrontCounters;
use crate::arch::layout::{self, MmioSlot};
use crate::devices::legacy::terminal::RawMode;
use crate::devices::legacy::{AcpiPm, Console, ConsoleOutput, I8042, IrqLine, Power, Serial};
use crate::devices::virtio::balloon::{self, Balloon, BalloonControl};
use crate::devices::virtio::blk::{
    BlockBackend, BlockConfig, BlockDevice, BlockMetrics, CacheType, Drives, Engine, SwapDisk,
};
use crate::devices::virtio::net::{Net, NetBackend, NetConfig, NetControl, Taps};
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::transport::MmioTransport;
use crate::devices::virtio::{GuestRam, SharedDevice};
use crate::link::LinkMetrics;
use crate::swap::{self, SwapLink};

/// The operator's side of network cards, by name.
pub(super) type Networks = HashMap<String, Arc<NetControl>>;

type Metrics = Box<dyn Fn() -> Value + Send>;

/// All devices, before the CPUs start.
pub(super) struct Platform {
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    /// Where the virtio-mmio devices are, in the order of their numbers.
    pub(super) slots: Vec<MmioSlot>,
    /// Devices that free no memory for others, and those that do: swap, and the balloon. Each kind has a thread, so
    /// that one of the first that waits for memory holds up none of the others.
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) reclaimers: Vec<Subscriber>,
    /// The operator's side of the balloon.
    pub(super) balloon: Option<Arc<BalloonControl>>,
    /// That of the disks, by `drive_id`.
    pub(super) drives: Drives,
    /// That of the network cards, by `iface_id`.
    pub(super) networks: Networks,
    /// What the guest sees of its swap did, if it has any.
    pub(super) swap_front: Option<SwapMetrics>,
    pub(super) keyboard: Arc<Mutex<I8042>>,
    pub(super) console: ConsoleOutput,
    /// The same for clients.
    pub(super) attachable: Console,
    /// The terminal, raw while the guest has it.
    pub(super) terminal: Option<RawMode>,
    pub(super) metrics: PlatformMetrics,
}

/// Where the counters of all devices are read.
#[derive(Default)]
pub(super) struct PlatformMetrics(Vec<(String, Metrics)>);

impl PlatformMetrics {
    fn add<T: serde::Serialize + Send + Sync + 'static>(&mut self, name: String, counters: &Arc<T>) {
        let counters = Arc::clone(counters);
        self.0.push((name, Box::new(move || serde_json::to_value(&*counters).unwrap_or(Value::Null))));
    }

    /// All counters, by device.
    pub(super) fn snapshot(&self) -> Map<String, Value> {
        self.0.iter().map(|(name, read)| (name.clone(), read())).collect()
    }
}

/// What the guest sees of its swap counts here.
pub(super) enum SwapMetrics {
    Link(Arc<LinkMetrics>),
    Disk(Arc<BlockMetrics>),
}

impl SwapMetrics {
    pub(super) fn snapshot(&self) -> SwapFrontCounters {
        match self {
            Self::Link(link) => SwapFrontCounters::Link(json!(**link)),
            Self::Disk(disk) => SwapFrontCounters::Disk(json!(**disk)),
        }
    }
}

impl Platform {
    /// Makes the devices that `config` names, for the guest called `id`.
    pub(super) fn new(
        id: &str,
        config: &VmConfig,
        taps: &mut Taps,
        vm: &mut Vm,
        memory: &Arc<MemoryService>,
        power: &Arc<Power>,
        guard: &Guard,
    ) -> Result<Self, LaunchError> {
        let keyboard = I8042::new(Arc::clone(power), irq_line(vm, layout::I8042_GSI)?);
        let keyboard_metrics = Arc::clone(keyboard.metrics());
        let keyboard = Arc::new(Mutex::new(keyboard));
        let (console, input, terminal) = console::open(config, guard)?;
        let line = irq_line(vm, layout::COM1_GSI)?;
        let serial = Serial::new("serial", line, console.clone(), input, Arc::clone(power), guard.clone());
        let mut platform = Self {
            ports: Bus::new(),
            mmio: Bus::new(),
            slots: Vec::new(),
            subscribers: Vec::new(),
            reclaimers: Vec::new(),
            balloon: None,
            drives: Drives::default(),
            networks: Networks::new(),
            swap_front: None,
            keyboard: Arc::clone(&keyboard),
            attachable: Console::new(console.clone(), serial.clone(), guard.clone()),
            console,
            terminal,
            metrics: PlatformMetrics::default(),
        };
        platform.metrics.add("console".to_owned(), platform.console.metrics());
        platform.metrics.add("keyboard".to_owned(), &keyboard_metrics);
        let port = |start: u16, len: u16| (u64::from(start), u64::from(len));
        let (start, len) = port(layout::COM1_PORT, layout::COM_LEN);
        platform.ports.insert(start, len, Arc::new(Mutex::new(serial))).map_err(LaunchError::new)?;
        let (start, len) = port(layout::I8042_PORT, layout::I8042_LEN);
        platform.ports.insert(start, len, keyboard).map_err(LaunchError::new)?;
        let (start, len) = port(layout::PM_PORT, layout::PM_LEN);
        let pm = AcpiPm::new(Arc::clone(power));
        platform.ports.insert(start, len, Arc::new(Mutex::new(pm))).map_err(LaunchError::new)?;

        let ram = guest_ram(memory.regions(), None).map_err(LaunchError::new)?;
        let announced_ram =
            guest_ram(memory.regions(), Some(memory.reclaimer())).map_err(LaunchError::new)?;
        for drive in &config.drives {
            platform.add_drive(drive, vm, &ram)?;
        }
        for interface in &config.network_interfaces {
            let tap = taps.lend(&interface.host_dev_name).map_err(LaunchError::new)?;
            let card = platform.add_network(&interface.iface_id, interface.device(id), tap, vm, &ram)?;
            platform.subscribers.push(card);
        }
        if let Some((swap, config)) = memory.swap().zip(config.swap.as_ref()) {
            let front = match config.front {
                config::SwapFront::Net => platform.add_swap_link(swap, vm, memory, &announced_ram)?,
                config::SwapFront::Blk => platform.add_swap_disk(swap, vm, memory, &announced_ram)?,
            };
            platform.reclaimers.push(front);
        }
        if let Some(balloon) = &config.balloon {
            platform.add_balloon(balloon, config.machine_config.mem_size_mib, vm, memory, &announced_ram)?;
        }
        let limits = config.entropy.and_then(|entropy| entropy.rate_limiter).unwrap_or_default().limits();
        let rng = Rng::new(limits).map_err(LaunchError::new)?;
        platform.metrics.add("rng".to_owned(), rng.metrics());
        let rng = platform.add_virtio("rng", Arc::new(Mutex::new(rng)), vm, &ram)?;
        platform.subscribers.push(rng);
        Ok(platform)
    }

    fn add_drive(&mut self, drive: &config::Drive, vm: &mut Vm, ram: &GuestRam) -> Result<(), LaunchError> {
        let backend =
            BlockBackend::open(&drive.path_on_host, drive.is_read_only).map_err(LaunchError::new)?;
        let cache = match drive.cache_type {
            config::CacheType::Unsafe => CacheType::Unsafe,
            config::CacheType::Writeback => CacheType::Writeback,
        };
        let engine = match drive.io_engine {
            config::IoEngine::Sync => Engine::Sync,
            config::IoEngine::Async => Engine::Async,
        };
        let limits = drive.rate_limiter.unwrap_or_default().limits();
        let options = BlockConfig { drive_id: &drive.drive_id, cache, engine, limits };
        let device = BlockDevice::new(backend, &options).map_err(LaunchError::new)?;
        let name = format!("block_{}", drive.drive_id);
        self.metrics.add(name.clone(), device.metrics());
        self.drives.insert(&drive.drive_id, device.control());
        let drive = self.add_virtio(&name, Arc::new(Mutex::new(device)), vm, ram)?;
        self.subscribers.push(drive);
        Ok(())
    }

    fn add_network(
        &mut self,
        id: &str,
        config: NetConfig,
        backend: impl NetBackend + 'static,
        vm: &mut Vm,
        ram: &GuestRam,
    ) -> Result<Subscriber, LaunchError> {
        let device = Net::new(config, backend).map_err(LaunchError::new)?;
        let name = format!("net_{id}");
        self.metrics.add(name.clone(), device.metrics());
        self.networks.insert(id.to_owned(), Arc::clone(device.control()));
        self.add_virtio(&name, Arc::new(Mutex::new(device)), vm, ram)
    }

    fn add_swap_link(
        &mut self,
        store: &Swap,
        vm: &mut Vm,
        memory: &Arc<MemoryService>,
        ram: &GuestRam,
    ) -> Result<Subscriber, LaunchError> {
        let link = SwapLink::new(memory, store).map_err(LaunchError::new)?;
        self.metrics.add("swap_link".to_owned(), link.metrics());
        self.swap_front = Some(SwapMetrics::Link(Arc::clone(link.metrics())));
        self.add_network(swap::CARD, SwapLink::card(), link, vm, ram)
    }

    fn add_swap_disk(
        &mut self,
        swap: &Swap,
        vm: &mut Vm,
        memory: &Arc<MemoryService>,
        ram: &GuestRam,
    ) -> Result<Subscriber, LaunchError> {
        let disk = SwapDisk::new(swap, Arc::clone(memory)).map_err(LaunchError::new)?;
        self.metrics.add("swap_disk".to_owned(), disk.metrics());
        self.swap_front = Some(SwapMetrics::Disk(Arc::clone(disk.metrics())));
        self.add_virtio("swap_disk", Arc::new(Mutex::new(disk)), vm, ram)
    }

    fn add_balloon(
        &mut self,
        config: &config::BalloonConfig,
        ram_size: config::Mib,
        vm: &mut Vm,
        memory: &Arc<MemoryService>,
        ram: &GuestRam,
    ) -> Result<(), LaunchError> {
        let mib = |amount: config::Mib| u32::try_from(amount.0).unwrap_or(u32::MAX);
        let options = balloon::BalloonConfig {
            amount_mib: mib(config.amount_mib),
            ram_mib: mib(ram_size),
            deflate_on_oom: config.deflate_on_oom,
            stats_polling_interval_s: config.stats_polling_interval_s,
            free_page_hinting: config.free_page_hinting,
            free_page_reporting: config.free_page_reporting,
        };
        let device = Balloon::new(options, Arc::clone(memory)).map_err(LaunchError::new)?;
        self.metrics.add("balloon".to_owned(), device.metrics());
        self.balloon = Some(Arc::clone(device.control()));
        let balloon = self.add_virtio("balloon", Arc::new(Mutex::new(device)), vm, ram)?;
        self.reclaimers.push(balloon);
        Ok(())
    }

    /// A device with its window and its interrupt; what serves its queues.
    fn add_virtio(
        &mut self,
        name: &str,
        device: SharedDevice,
        vm: &mut Vm,
        ram: &GuestRam,
    ) -> Result<Subscriber, LaunchError> {
        let slot = u32::try_from(self.slots.len()).ok().and_then(layout::mmio_device).ok_or_else(|| {
            LaunchError::new(format!(
                "there are more disks and network interfaces than interrupt lines; attach at most {}",
                config::MAX_DEVICES
            ))
        })?;
        let transport = MmioTransport::new(device, ram.clone()).map_err(LaunchError::new)?;
        vm.connect_irq(transport.irq(), slot.gsi).map_err(LaunchError::new)?;
        for (index, kick) in (0u32..).zip(transport.queue_events()) {
            let address = slot.addr + MmioTransport::NOTIFY_OFFSET;
            vm.connect_notify(kick, address, Some(index)).map_err(LaunchError::new)?;
        }
        let (offset, value) = MmioTransport::ACK;
        vm.connect_notify(transport.seen_event(), slot.addr + offset, Some(value))
            .map_err(LaunchError::new)?;
        vm.show_registers(transport.page(), slot.addr).map_err(LaunchError::new)?;
        self.metrics.add(format!("transport_{name}"), transport.metrics());
        let events = Arc::new(Mutex::new(transport.events()));
        let registers = Arc::new(Mutex::new(Registers(transport)));
        self.mmio.insert(slot.addr, layout::MMIO_LEN, registers).map_err(LaunchError::new)?;
        self.slots.push(slot);
        Ok(events)
    }

    /// Accesses of the guest that no device claimed.
    pub(super) fn bus_metrics(ports: &Bus, mmio: &Bus) -> Value {
        json!({ "unclaimed_ports": ports.unclaimed(), "unclaimed_mmio": mmio.unclaimed() })
    }
}

/// A virtio-mmio window on the bus.
struct Registers(MmioTransport);

impl BusDevice for Registers {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.write(offset, data);
    }
}

fn irq_line(vm: &Vm, gsi: u32) -> Result<IrqLine, LaunchError> {
    let event = EventFd::new(libc::EFD_NONBLOCK).map_err(LaunchError::new)?;
    vm.connect_irq(&event, gsi).map_err(LaunchError::new)?;
    Ok(IrqLine::new(event))
}
