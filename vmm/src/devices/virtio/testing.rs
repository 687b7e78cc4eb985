//! A guest driver in memory. The driver lays rings out in guest RAM and talks to a device through mmio
//! registers and the event loop, as a kernel would.
//!
//! ```text
//!   0x00_0000  nothing       0x01_0000  rings of queue 0 (64 KiB each queue)      0x10_0000  buffers
//! ```

use std::time::{Duration, Instant};

use event_manager::{EventManager, SubscriberOps};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestRegionMmap};

use super::transport::MmioTransport;
use super::{GuestRam, RamRegion, SharedDevice, Status};
use crate::devices::events::DeviceEvents;

pub(super) const RAM: u64 = 4 << 20;
pub(super) const BUFFERS: u64 = 0x10_0000;
pub(super) const SIZE: u16 = 16;
pub(super) const V1: u64 = 1 << VIRTIO_F_VERSION_1;
const RINGS: u64 = 0x1_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A buffer of a request: address and length.
#[derive(Clone, Copy, Debug)]
pub(super) enum Buf {
    /// The device reads it.
    Out(u64, u32),
    /// The device may write it.
    In(u64, u32),
}

/// The addresses of one queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rings {
    pub(super) table: u64,
    pub(super) avail: u64,
    pub(super) used: u64,
}

pub(super) fn rings(queue: usize) -> Rings {
    let table = RINGS * (queue as u64 + 1);
    Rings { table, avail: table + 0x4000, used: table + 0x8000 }
}

#[derive(Clone, Copy, Debug, Default)]
struct Position {
    descriptor: u16,
    avail: u16,
    used: u16,
}

pub(super) struct Driver {
    pub(super) ram: GuestRam,
    pub(super) mmio: MmioTransport,
    events: EventManager<DeviceEvents>,
    positions: [Position; 8],
}

impl Driver {
    pub(super) fn new(device: SharedDevice) -> Self {
        let region = GuestRegionMmap::from_range(GuestAddress(0), RAM as usize, None).expect("RAM");
        let ram = GuestRam::from_regions(vec![RamRegion::new(region, None)]).expect("one region");
        Self::with_ram(device, ram)
    }

    /// In RAM that is somebody else's; it begins at 0 and has at least [`RAM`] bytes there.
    pub(super) fn with_ram(device: SharedDevice, ram: GuestRam) -> Self {
        let mmio = MmioTransport::new(device, ram.clone()).expect("transport");
        let mut events = EventManager::new().expect("event loop");
        events.add_subscriber(mmio.events());
        Self { ram, mmio, events, positions: Default::default() }
    }

    /// A driver that has brought the device up with `features` and `queues` queues.
    pub(super) fn started(device: SharedDevice, features: u64, queues: usize) -> Self {
        let mut driver = Self::new(device);
        driver.start(features, queues);
        assert_eq!(driver.get(0x70), 15, "the device is live");
        driver
    }

    pub(super) fn get(&self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        self.mmio.page().read(register, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub(super) fn set(&self, register: u64, value: u32) {
        self.mmio.write(register, &value.to_le_bytes());
    }

    /// Up to FEATURES_OK, if the device agrees.
    pub(super) fn negotiate(&self, features: u64) {
        self.set(0x70, Status::ACKNOWLEDGE);
        self.set(0x70, Status::ACKNOWLEDGE | Status::DRIVER);
        for half in 0..2 {
            self.set(0x24, half);
            self.set(0x20, (features >> (32 * half)) as u32);
        }
        self.set(0x70, Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK);
    }

    pub(super) fn set_up_queue(&mut self, queue: usize, size: u32, at: Rings) {
        self.set(0x30, queue as u32);
        self.set(0x38, size);
        for (register, address) in [(0x80, at.table), (0x90, at.avail), (0xa0, at.used)] {
            self.set(register, address as u32);
            self.set(register + 4, (address >> 32) as u32);
        }
        self.set(0x44, 1);
    }

    pub(super) fn start(&mut self, features: u64, queues: usize) {
        self.negotiate(features);
        for queue in 0..queues {
            self.clear_rings(queue);
            self.set_up_queue(queue, SIZE.into(), rings(queue));
        }
        self.set(0x70, 15);
        self.run();
    }

    fn clear_rings(&mut self, queue: usize) {
        self.ram.write_slice(&[0; RINGS as usize], GuestAddress(rings(queue).table)).expect("rings");
        self.positions[queue] = Position::default();
    }

    /// Writes one descriptor, whatever is in it.
    pub(super) fn describe(&self, queue: usize, index: u16, descriptor: Descriptor) {
        let at = rings(queue).table + 16 * u64::from(index);
        self.ram.write_obj(descriptor, GuestAddress(at)).expect("descriptor");
    }

    /// Makes a head available, whatever it is.
    pub(super) fn offer(&mut self, queue: usize, head: u16) {
        let position = &mut self.positions[queue];
        let at = rings(queue).avail + 4 + 2 * u64::from(position.avail % SIZE);
        position.avail = position.avail.wrapping_add(1);
        self.ram.write_obj(head, GuestAddress(at)).expect("entry");
        self.ram.write_obj(position.avail, GuestAddress(rings(queue).avail + 2)).expect("index");
    }

    /// Makes a chain available.
    pub(super) fn add(&mut self, queue: usize, buffers: &[Buf]) -> u16 {
        let head = self.positions[queue].descriptor;
        for (i, buffer) in (1..).zip(buffers) {
            let index = self.positions[queue].descriptor;
            let next = (index + 1) % SIZE;
            self.positions[queue].descriptor = next;
            let (address, len, flags) = match *buffer {
                Buf::Out(address, len) => (address, len, 0),
                Buf::In(address, len) => (address, len, WRITE),
            };
            let more = if i < buffers.len() { NEXT } else { 0 };
            self.describe(queue, index, Descriptor::new(address, len, flags | more, next));
        }
        self.offer(queue, head);
        head
    }

    pub(super) fn kick(&mut self, queue: usize) {
        self.set(0x50, queue as u32);
        self.run();
    }

    /// Adds, kicks and waits: the bytes that the device says it wrote.
    pub(super) fn request(&mut self, queue: usize, buffers: &[Buf]) -> u32 {
        let head = self.add(queue, buffers);
        self.kick(queue);
        match self.used(queue)[..] {
            [(used, len)] => {
                assert_eq!(used, u32::from(head));
                len
            }
            ref other => panic!("one request, but used: {other:?}"),
        }
    }

    /// Lets the event loop run until nothing is left to do; a device that never ends fails.
    pub(super) fn run(&mut self) {
        for _ in 0..10_000 {
            if self.events.run_with_timeout(0).expect("event loop") == 0 {
                return;
            }
        }
        panic!("the device does not come to rest");
    }

    /// Lets the event loop take one turn, and what it has left to do wait.
    pub(super) fn turn(&mut self) {
        self.events.run_with_timeout(0).expect("event loop");
    }

    /// Waits for an event of the device's own, or several.
    pub(super) fn wait(&mut self) {
        let begun = Instant::now();
        // The kernel wakes this thread for work of its own, too (io_uring).
        while self.events.run_with_timeout(30_000).expect("event loop") == 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "no event came");
        }
    }

    /// Used entries since the last call: head and length.
    pub(super) fn used(&mut self, queue: usize) -> Vec<(u32, u32)> {
        let at = rings(queue).used;
        let index: u16 = self.ram.read_obj(GuestAddress(at + 2)).expect("index");
        let mut found = Vec::new();
        while self.positions[queue].used != index {
            let entry = at + 4 + 8 * u64::from(self.positions[queue].used % SIZE);
            let [head, len] = self.ram.read_obj(GuestAddress(entry)).expect("entry");
            found.push((head, len));
            self.positions[queue].used = self.positions[queue].used.wrapping_add(1);
        }
        found
    }

    /// Interrupts since the last call, and which kinds (1 used buffers, 2 configuration).
    pub(super) fn interrupts(&self) -> (u64, u32) {
        let kinds = self.get(0x60);
        self.set(0x64, kinds);
        (self.mmio.irq().read().unwrap_or(0), kinds)
    }

    pub(super) fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(at)).expect("in RAM");
    }

    pub(super) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read_slice(&mut bytes, GuestAddress(at)).expect("in RAM");
        bytes
    }
}
