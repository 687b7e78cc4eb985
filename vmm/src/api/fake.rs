//! A guest that does at once what it is told, and writes down that it was told.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use memsvc::{
    MemoryStats,
    core::compact::Tuning,
    stats::{
        ArenaStats, BuddyInfo, CacheInfo, Compacted, CompactionInfo, FramesByType, Reclaimed, SlabInfo,
        TypeInfo, ZoneInfo,
    },
    swap::SwapStats,
};
use serde_json::{Map, Value, json};

use super::{
    control::{ActionError, Compaction, LaunchError, Launcher, RunningVm},
    controller::Controller,
    logger::Logger,
    types::{GuestStats, HintingStatus},
};
use crate::vm::{
    config::{Mib, RateLimiter, VmConfig},
    exit::ExitSlot,
};

/// What the guest was told, in order.
pub(crate) type Told = Arc<Mutex<Vec<String>>>;

/// Launches fakes; refuses guests of 666 MiB.
#[derive(Default)]
pub(crate) struct FakeLauncher {
    pub(crate) told: Told,
}

struct FakeVm {
    told: Told,
    is_paused: bool,
    balloon: Mib,
    tuning: Tuning,
}

/// Reclaims without an end when it is asked for 66 MiB, until it is told to stop.
struct FakeCompaction(Told);

impl Launcher for FakeLauncher {
    fn launch(
        &self,
        id: &str,
        config: &VmConfig,
        _: &Arc<ExitSlot>,
    ) -> Result<Box<dyn RunningVm>, LaunchError> {
        if config.machine_config.mem_size_mib == Mib(666) {
            return Err(LaunchError::new("the host has not that much memory."));
        }
        let told = Arc::clone(&self.told);
        let tuning = config.memory.compaction.tuning();
        let mut vm = FakeVm { told, is_paused: false, balloon: Mib(0), tuning };
        vm.note(format!("launch {id}"));
        vm.balloon = config.balloon.as_ref().map_or(Mib(0), |balloon| balloon.amount_mib);
        Ok(Box::new(vm))
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
    fn pause(&mut self) -> Result<(), ActionError> {
        self.is_paused = true;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), ActionError> {
        self.is_paused = false;
        Ok(())
    }

    fn is_paused(&self) -> bool {
        self.is_paused
    }

    fn set_balloon(&mut self, amount: Mib) -> Result<(), ActionError> {
        self.balloon = amount;
        self.note(format!("balloon {}", amount.0));
        Ok(())
    }

    fn balloon_pages(&self) -> u64 {
        self.balloon.pages()
    }

    fn balloon_stats(&self) -> Result<GuestStats, ActionError> {
        Ok(GuestStats { free_memory: Some(4096), ..GuestStats::default() })
    }

    fn set_stats_interval(&mut self, seconds: u16) -> Result<(), ActionError> {
        self.note(format!("interval {seconds}"));
        Ok(())
    }

    fn hinting_start(&mut self, acknowledge_on_stop: bool) -> Result<(), ActionError> {
        self.note(format!("hinting {acknowledge_on_stop}"));
        Ok(())
    }

    fn hinting_stop(&mut self) -> Result<(), ActionError> {
        Err(ActionError::caused("The guest cannot be told", "its queue is broken"))
    }

    fn hinting_status(&self) -> Result<HintingStatus, ActionError> {
        Ok(HintingStatus { host_cmd: 2, guest_cmd: None })
    }

    fn limit_network(&mut self, iface_id: &str, rx: RateLimiter, tx: RateLimiter) -> Result<(), ActionError> {
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

    fn swap_stats(&self) -> Option<(SwapStats, serde_json::Value)> {
        Some((SwapStats::default(), serde_json::json!({ "frames_in": 7 })))
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
    let launcher = FakeLauncher::default();
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
