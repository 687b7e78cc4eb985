//! A guest that does at once what it is told, and writes down that it was told.

use std::{
    io::{self, Read, Write},
    os::{fd::RawFd, unix::net::UnixStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use memsvc::{
    Gfn, MemoryStats, Outcome,
    core::compact::Tuning,
    stats::{
        ArenaStats, BuddyInfo, CacheInfo, Compacted, CompactionInfo, FramesByType, Reclaimed, SlabInfo,
        TypeInfo, ZoneInfo,
    },
    swap::SwapStats,
};
use serde_json::{Map, Value, json};

use super::{
    control::{ActionError, Compaction, LaunchError, Launcher, RunningVm, Statistics},
    controller::Controller,
    logger::Logger,
    types::{GuestStats, HintingStatus, SwapFrontCounters},
};
use crate::{
    devices::legacy::Attached,
    devices::virtio::{
        balloon::{Balloon, BalloonBackend, BalloonConfig, BalloonControl},
        blk::{BlockBackend, BlockConfig, BlockControl, BlockDevice},
        net::{Inbox, Net, NetBackend, NetConfig, NetControl, Outgoing, Taps, Transmitted},
    },
    vm::{
        config::{self, Mib, RateLimiter, VmConfig},
        exit::ExitSlot,
    },
};

/// What the guest was told, in order.
pub(crate) type Told = Arc<Mutex<Vec<String>>>;

/// A guest of so much memory says "starting", and starts when it is told to go on.
pub(crate) const SLOW_TO_START: Mib = Mib(778);

/// A balloon of so much is set when somebody says so; it says "at work" until then.
pub(crate) const SLOW_BALLOON: Mib = Mib(77);

/// A guest that hears this hears nothing more, says so much, and ends its console.
pub(crate) const LAST_KEY: u8 = b'!';
pub(crate) const LAST_WORDS: usize = 4 << 20;

/// Launches fakes; refuses guests of 666 MiB.
#[derive(Default)]
pub(crate) struct FakeLauncher {
    pub(crate) told: Told,
    is_wedged: bool,
}

struct FakeVm {
    told: Told,
    wedged: Option<Wedged>,
    is_paused: bool,
    balloon: Mib,
    tuning: Tuning,
}

/// Real devices whose locks somebody holds for ever, and a vCPU that never leaves the guest.
struct Wedged {
    balloon: Arc<BalloonControl>,
    disk: Arc<BlockControl>,
    network: Arc<NetControl>,
}

impl Wedged {
    fn new(balloon: Option<&config::BalloonConfig>) -> Self {
        let config = BalloonConfig {
            ram_mib: 128,
            stats_polling_interval_s: balloon.map_or(0, |balloon| balloon.stats_polling_interval_s),
            free_page_hinting: balloon.is_some_and(|balloon| balloon.free_page_hinting),
            ..BalloonConfig::default()
        };
        let balloon = Balloon::new(config, Nobody).expect("a balloon");
        let network = Net::new(NetConfig::default(), Nobody).expect("a card");
        let image = tempfile::NamedTempFile::new().expect("an image");
        image.as_file().set_len(512).expect("a sector");
        let image = BlockBackend::open(image.path(), false).expect("a disk");
        let disk = BlockDevice::new(image, &BlockConfig::default()).expect("a disk");
        let wedged = Self {
            balloon: Arc::clone(balloon.control()),
            disk: Arc::clone(disk.control()),
            network: Arc::clone(network.control()),
        };
        let (balloon, disk, network) = (Mutex::new(balloon), Mutex::new(disk), Mutex::new(network));
        thread::spawn(move || {
            let _held =
                (balloon.lock().expect("lock"), disk.lock().expect("lock"), network.lock().expect("lock"));
            loop {
                thread::park();
            }
        });
        wedged
    }
}

/// Reclaims without an end when it is asked for 66 MiB, until it is told to stop.
struct FakeCompaction(Told);

/// Tells statistics as soon as it is asked.
struct FakeStatistics(Told);

impl Statistics for FakeStatistics {
    fn ask(&self) -> u64 {
        let before = self.told();
        self.0.lock().expect("lock").push("statistics".to_owned());
        before
    }
    fn told(&self) -> u64 {
        self.0.lock().expect("lock").iter().filter(|what| *what == "statistics").count() as u64
    }
}

/// A server that never gets to serve these devices.
struct Nobody;

impl BalloonBackend for Nobody {
    fn inflate(&self, _: &[Gfn]) -> Outcome {
        Outcome::default()
    }
    fn deflate(&self, _: &[Gfn]) -> Outcome {
        Outcome::default()
    }
    fn report_free(&self, _: u64, _: u64) -> Outcome {
        Outcome::default()
    }
    fn reset_balloon(&self) {}
}

impl NetBackend for Nobody {
    fn features(&self) -> u64 {
        0
    }
    fn set_offloads(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn transmit(&mut self, _: &Outgoing<'_>, _: &mut Inbox<'_>) -> Transmitted {
        Transmitted::Refused
    }
    fn receive(&mut self, _: &mut Inbox<'_>) {}
    fn events(&self) -> Vec<RawFd> {
        Vec::new()
    }
    fn reset(&mut self) {}
}

impl Launcher for FakeLauncher {
    fn launch(
        &self,
        id: &str,
        config: &VmConfig,
        _: &mut Taps,
        _: &Arc<ExitSlot>,
    ) -> Result<Box<dyn RunningVm>, LaunchError> {
        if config.machine_config.mem_size_mib == Mib(666) {
            return Err(LaunchError::new("the host has not that much memory."));
        }
        let told = Arc::clone(&self.told);
        if config.machine_config.mem_size_mib == SLOW_TO_START {
            until_told_to_go_on(&told, "starting");
        }
        let tuning = config.memory.compaction.tuning();
        let wedged = self.is_wedged.then(|| Wedged::new(config.balloon.as_ref()));
        let mut vm = FakeVm { told, wedged, is_paused: false, balloon: Mib(0), tuning };
        vm.note(format!("launch {id}"));
        vm.balloon = config.balloon.as_ref().map_or(Mib(0), |balloon| balloon.amount_mib);
        Ok(Box::new(vm))
    }
}

/// Says what is done, and does it until somebody says to go on.
fn until_told_to_go_on(told: &Told, what: &str) {
    told.lock().expect("lock").push(what.to_owned());
    while !told.lock().expect("lock").iter().any(|what| what == "go on") {
        thread::sleep(Duration::from_millis(1));
    }
}

impl FakeVm {
    fn note(&mut self, what: String) {
        self.told.lock().expect("no panic while it is held").push(what);
    }
}

impl Drop for FakeVm {
    fn drop(&mut self) {
        self.note("drop".to_owned());
    }
}

impl RunningVm for FakeVm {
    fn pause(&mut self, limit: Duration) -> usize {
        if self.wedged.is_some() {
            self.note("pause".to_owned());
            thread::sleep(limit);
            return 1;
        }
        self.is_paused = true;
        0
    }

    fn resume(&mut self) {
        self.is_paused = false;
        self.note("resume".to_owned());
    }

    fn is_paused(&self) -> bool {
        self.is_paused
    }

    fn set_balloon(&mut self, amount: Mib) -> Result<(), ActionError> {
        if amount == SLOW_BALLOON {
            until_told_to_go_on(&self.told, "at work");
        }
        if let Some(wedged) = &self.wedged {
            let amount = u32::try_from(amount.0).expect("fits");
            return wedged
                .balloon
                .set_target_mib(amount)
                .map_err(|error| ActionError::new(error.to_string()));
        }
        self.balloon = amount;
        self.note(format!("balloon {}", amount.0));
        Ok(())
    }

    fn balloon_pages(&self) -> u64 {
        self.balloon.pages()
    }

    fn host_freed_pages(&self) -> u64 {
        self.balloon.pages() / 2
    }

    fn balloon_stats(&self) -> Result<GuestStats, ActionError> {
        if let Some(wedged) = &self.wedged {
            return wedged.balloon.stats().map_err(|error| ActionError::new(error.to_string()));
        }
        Ok(GuestStats { free_memory: Some(4096), ..GuestStats::default() })
    }

    fn statistics(&self) -> Option<Arc<dyn Statistics>> {
        if let Some(wedged) = &self.wedged {
            return Some(Arc::clone(&wedged.balloon) as Arc<dyn Statistics>);
        }
        Some(Arc::new(FakeStatistics(Arc::clone(&self.told))))
    }

    fn set_stats_interval(&mut self, seconds: u16) -> Result<(), ActionError> {
        if let Some(wedged) = &self.wedged {
            return wedged
                .balloon
                .set_stats_interval(seconds)
                .map_err(|error| ActionError::new(error.to_string()));
        }
        self.note(format!("interval {seconds}"));
        Ok(())
    }

    fn hinting_start(&mut self, acknowledge_on_stop: bool) -> Result<(), ActionError> {
        if let Some(wedged) = &self.wedged {
            let started = wedged.balloon.hinting_start(acknowledge_on_stop);
            return started.map_err(|error| ActionError::new(error.to_string()));
        }
        self.note(format!("hinting {acknowledge_on_stop}"));
        Ok(())
    }

    fn hinting_stop(&mut self) -> Result<(), ActionError> {
        Err(ActionError::caused("The guest cannot be told", "its queue is broken"))
    }

    fn hinting_status(&self) -> Result<HintingStatus, ActionError> {
        if let Some(wedged) = &self.wedged {
            return wedged.balloon.hinting_status().map_err(|error| ActionError::new(error.to_string()));
        }
        Ok(HintingStatus { host_cmd: 2, guest_cmd: None })
    }

    fn update_drive(
        &mut self,
        drive_id: &str,
        path: Option<&Path>,
        limits: RateLimiter,
    ) -> Result<(), ActionError> {
        if let Some(wedged) = &self.wedged {
            let updated = wedged.disk.update(path, limits.limits());
            updated.map_err(|error| ActionError::caused("The disk stays as it is", error))?;
        }
        let size = limits.bandwidth.map(|bucket| bucket.size);
        self.note(format!("drive {drive_id} {path:?} {size:?}"));
        Ok(())
    }

    fn limit_network(&mut self, iface_id: &str, rx: RateLimiter, tx: RateLimiter) -> Result<(), ActionError> {
        if let Some(wedged) = &self.wedged {
            wedged.network.set_limits(rx.limits(), tx.limits());
        }
        let size = |limiter: RateLimiter| limiter.bandwidth.map(|bucket| bucket.size);
        self.note(format!("limit {iface_id} {:?} {:?}", size(rx), size(tx)));
        Ok(())
    }

    fn memory_stats(&self) -> MemoryStats {
        let frames_by_type = FramesByType { buddy: 1000, guest: 500, slab: 36, ..FramesByType::default() };
        let arena = ArenaStats { blocks: 3, frames: 1536, frames_by_type, ..ArenaStats::default() };
        MemoryStats { arena, ..MemoryStats::default() }
    }

    fn buddy_info(&self) -> BuddyInfo {
        BuddyInfo { free_frames: 1000, ..BuddyInfo::default() }
    }

    fn type_info(&self) -> TypeInfo {
        TypeInfo { whole_free_blocks: 2, ..TypeInfo::default() }
    }

    fn zone_info(&self) -> ZoneInfo {
        ZoneInfo { min: 16, ..ZoneInfo::default() }
    }

    fn slab_info(&self) -> SlabInfo {
        SlabInfo { caches: vec![CacheInfo { name: "kmem-96".to_owned(), ..CacheInfo::default() }] }
    }

    fn swap_stats(&self) -> Option<(SwapStats, SwapFrontCounters)> {
        let link = serde_json::json!({ "frames_in": 7 });
        Some((SwapStats::default(), SwapFrontCounters::Link(link)))
    }

    fn compaction_info(&self) -> CompactionInfo {
        CompactionInfo { tuning: self.tuning, score: 12, ..CompactionInfo::default() }
    }

    fn tune_compaction(&mut self, tuning: Tuning) -> Result<(), ActionError> {
        self.tuning = tuning;
        Ok(())
    }

    fn compaction(&self) -> Arc<dyn Compaction> {
        Arc::new(FakeCompaction(Arc::clone(&self.told)))
    }

    fn send_ctrl_alt_del(&mut self) -> Result<(), ActionError> {
        self.note("ctrl-alt-del".to_owned());
        Ok(())
    }

    /// To a guest that says in capitals what it hears.
    fn attach_console(&mut self) -> Result<Attached, ActionError> {
        let ((output, mut says), (mut hears, keys)) =
            (UnixStream::pair().expect("a pair"), UnixStream::pair().expect("a pair"));
        if self.wedged.is_some() {
            // Until the test ends nobody reads.
            std::mem::forget((says, hears));
            return Ok(Attached::to(output, keys));
        }
        thread::spawn(move || {
            let mut byte = [0];
            while hears.read_exact(&mut byte).is_ok()
                && byte != [LAST_KEY]
                && says.write_all(&[byte[0].to_ascii_uppercase()]).is_ok()
            {}
            drop(hears);
            if byte == [LAST_KEY] {
                // Nobody hears it if the client has gone.
                let _ = says.write_all(&vec![b'x'; LAST_WORDS]);
            }
        });
        Ok(Attached::to(output, keys))
    }

    fn metrics(&self) -> Map<String, Value> {
        let disk = json!({"reads": 5, "written_bytes": 4096});
        Map::from_iter([("exits".to_owned(), Value::from(7)), ("block_root".to_owned(), disk)])
    }
}

impl FakeCompaction {
    fn note(&self, what: String) {
        self.0.lock().expect("no panic while it is held").push(what);
    }
}

impl Compaction for FakeCompaction {
    fn compact(&self, goes_on: &dyn Fn() -> bool) -> Compacted {
        self.note("compact".to_owned());
        Compacted { blocks: 5, complete: goes_on(), ..Compacted::default() }
    }

    fn reclaim(&self, bytes: u64, goes_on: &dyn Fn() -> bool) -> Reclaimed {
        self.note(format!("reclaim {}", bytes >> 20));
        if bytes == 66 << 20 {
            while goes_on() {
                thread::sleep(Duration::from_millis(1));
            }
            self.note("stopped".to_owned());
        }
        Reclaimed { asked_bytes: bytes, ..Reclaimed::default() }
    }
}

/// A controller of fakes, and what they are told.
pub(crate) fn controller() -> (Controller, Told) {
    controller_with(FakeLauncher::default())
}

/// One whose guest has wedged its devices.
pub(crate) fn wedged_controller() -> (Controller, Told) {
    controller_with(FakeLauncher { is_wedged: true, ..FakeLauncher::default() })
}

fn controller_with(launcher: FakeLauncher) -> (Controller, Told) {
    let told = Arc::clone(&launcher.told);
    let exit = Arc::new(ExitSlot::default());
    (Controller::new("vm7".to_owned(), Arc::new(launcher), Logger::new("vm7"), exit), told)
}

/// A file that can be given as a kernel, in `dir`.
pub(crate) fn kernel(dir: &Path) -> String {
    let path = dir.join("kernel");
    std::fs::write(&path, "kernel").expect("written");
    path.display().to_string()
}
