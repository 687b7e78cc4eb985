//! Finds the device that a guest's access is for.
//!
//! One bus for ports and one for memory addresses. Ranges are sorted and do not overlap; they are
//! fixed before the first CPU runs, so a lookup takes no lock. An access that no device claims reads
//! as all ones, as on a bus with pull-ups, and is counted.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

/// A device with registers. Offsets count from the start of its range; `data` never reaches beyond
/// its end.
pub trait BusDevice: Send {
    /// The guest reads `data.len()` bytes.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes `data`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device that other threads share with the bus.
pub type SharedDevice = Arc<Mutex<dyn BusDevice>>;

/// A range could not be claimed.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("bus range {start:#x}+{len:#x} is empty, too long or taken by another device")]
pub struct RangeTaken {
    start: u64,
    len: u64,
}

struct Range {
    start: u64,
    /// One past the last address.
    end: u64,
    device: SharedDevice,
}

/// Devices by address.
#[derive(Default)]
pub struct Bus {
    /// Sorted by start.
    ranges: Vec<Range>,
    unclaimed: AtomicU64,
}

impl Bus {
    /// A bus without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `[start, start + len)` to `device`.
    pub fn insert(&mut self, start: u64, len: u64, device: SharedDevice) -> Result<(), RangeTaken> {
        let taken = RangeTaken { start, len };
        let end = start.checked_add(len).filter(|end| *end > start).ok_or(RangeTaken { start, len })?;
        let at = self.ranges.partition_point(|r| r.start < start);
        let before = at.checked_sub(1).and_then(|i| self.ranges.get(i));
        if before.is_some_and(|r| r.end > start) || self.ranges.get(at).is_some_and(|r| r.start < end) {
            return Err(taken);
        }
        self.ranges.insert(at, Range { start, end, device });
        Ok(())
    }

    /// Reads; all ones where there is no device.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        match self.find(addr, data.len()) {
            Some(range) => lock(&range.device).read(addr - range.start, data),
            None => data.fill(0xFF),
        }
    }

    /// Writes; lost where there is no device.
    pub fn write(&self, addr: u64, data: &[u8]) {
        if let Some(range) = self.find(addr, data.len()) {
            lock(&range.device).write(addr - range.start, data);
        }
    }

    /// Reads `data` in units of `width` bytes from one port. A string instruction makes several units of one exit, all
    /// of them for the same port; all devices here have 8 bits, so the bytes of a unit are neighbouring ports, as on
    /// the ISA bus.
    pub fn read_port(&self, port: u16, width: usize, data: &mut [u8]) {
        for unit in data.chunks_mut(width.max(1)) {
            for (port, byte) in (u64::from(port)..).zip(unit) {
                self.read(port, std::slice::from_mut(byte));
            }
        }
    }

    /// Writes `data` in units of `width` bytes to one port, likewise.
    pub fn write_port(&self, port: u16, width: usize, data: &[u8]) {
        for unit in data.chunks(width.max(1)) {
            for (port, byte) in (u64::from(port)..).zip(unit) {
                self.write(port, std::slice::from_ref(byte));
            }
        }
    }

    /// Accesses that no device claimed.
    pub fn unclaimed(&self) -> u64 {
        self.unclaimed.load(Ordering::Relaxed)
    }

    fn find(&self, addr: u64, len: usize) -> Option<&Range> {
        let at = self.ranges.partition_point(|r| r.start <= addr);
        let range = at.checked_sub(1).and_then(|i| self.ranges.get(i));
        let found = range.filter(|r| addr.checked_add(len as u64).is_some_and(|end| end <= r.end));
        if found.is_none() {
            self.unclaimed.fetch_add(1, Ordering::Relaxed);
        }
        found
    }
}

/// A device whose thread panicked is still what the guest talks to.
fn lock(device: &SharedDevice) -> std::sync::MutexGuard<'_, dyn BusDevice + 'static> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ranges.iter().map(|r| r.start..r.end)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Answers with its number and the offset.
    struct Echo(u8);

    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(0);
            data[0] = self.0;
            if let Some(b) = data.get_mut(1) {
                *b = offset as u8;
            }
        }
        fn write(&mut self, _: u64, data: &[u8]) {
            self.0 = data[0];
        }
    }

    proptest! {
        /// A bus agrees with a plain list of ranges.
        #[test]
        fn an_access_reaches_the_device_that_claimed_it(
            wishes in proptest::collection::vec((0u64..64, 0u64..9), 0..12),
            accesses in proptest::collection::vec((0u64..80, 1usize..9), 0..40),
        ) {
            let mut bus = Bus::new();
            let mut model: Vec<(u64, u64, u8)> = Vec::new();
            for (i, (start, len)) in (0u8..).zip(wishes) {
                let free = len > 0 && model.iter().all(|m| start + len <= m.0 || m.1 <= start);
                let done = bus.insert(start, len, Arc::new(Mutex::new(Echo(i))));
                prop_assert_eq!(done.is_ok(), free);
                if free {
                    model.push((start, start + len, i));
                }
            }
            let mut lost = 0;
            for (addr, len) in accesses {
                let mut data = vec![0x55; len];
                bus.read(addr, &mut data);
                match model.iter().find(|m| m.0 <= addr && addr + len as u64 <= m.1) {
                    Some(m) => {
                        prop_assert_eq!(data[0], m.2);
                        prop_assert!(len < 2 || u64::from(data[1]) == addr - m.0);
                    }
                    None => {
                        lost += 1;
                        prop_assert!(data.iter().all(|b| *b == 0xFF));
                    }
                }
            }
            prop_assert_eq!(bus.unclaimed(), lost);
        }
    }

    /// Writes down which register each byte was for, and answers with how many there were.
    #[derive(Default)]
    struct Log(Vec<(u64, u8)>);

    impl BusDevice for Log {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(0xEE);
            self.0.push((offset, data.len() as u8));
            data[0] = self.0.len() as u8;
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.extend(data.iter().map(|byte| (offset, *byte)));
        }
    }

    #[test]
    fn strings_go_to_one_port_and_wide_units_to_its_neighbours() {
        let log = Arc::new(Mutex::new(Log::default()));
        let mut bus = Bus::new();
        bus.insert(0x10, 2, log.clone()).unwrap();
        let asked = || std::mem::take(&mut log.lock().unwrap().0);

        let mut bytes = [0; 5];
        bus.read_port(0x11, 1, &mut bytes);
        assert_eq!((bytes, asked()), ([1, 2, 3, 4, 5], vec![(1, 1); 5]), "longer than what follows");
        let mut words = [0; 4];
        bus.read_port(0x10, 2, &mut words);
        assert_eq!((words, asked()), ([1, 2, 3, 4], vec![(0, 1), (1, 1), (0, 1), (1, 1)]));
        let mut wide = [0; 4];
        bus.read_port(0x11, 4, &mut wide);
        assert_eq!((wide, asked()), ([1, 0xFF, 0xFF, 0xFF], vec![(1, 1)]), "nothing is behind it");

        bus.write_port(0x11, 1, b"abc");
        assert_eq!(asked(), [(1, b'a'), (1, b'b'), (1, b'c')]);
        bus.write_port(0x10, 2, b"abcd");
        assert_eq!(asked(), [(0, b'a'), (1, b'b'), (0, b'c'), (1, b'd')]);
    }

    #[test]
    fn the_last_addresses_do_not_wrap() {
        let mut bus = Bus::new();
        assert!(bus.insert(u64::MAX, 2, Arc::new(Mutex::new(Echo(0)))).is_err());
        let mut data = [0; 8];
        bus.read(u64::MAX, &mut data);
        assert_eq!(data, [0xFF; 8]);
    }
}
