//! The balloon: its queues served for the driver, its target and commands set by the operator.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::Bytes;
use vmm_sys_util::timerfd::TimerFd;

use super::config::ConfigSpace;
use super::hinting::Hinting;
use super::pfns::PfnBuffer;
use super::queues::{Role, roles};
use super::ranges::RangeSink;
use super::stats::StatsQueue;
use super::{
    BalloonBackend, BalloonError, BalloonMetrics, GuestStats, HintingStatus, PAGES_PER_MIB, feature,
};
use crate::devices::virtio::device::config_bytes;
use crate::devices::virtio::{
    ActivateError, Active, Completion, ConfigBytes, DeviceKind, OwnEvent, VirtioDevice, Work,
};

/// The only event of its own: time to ask for statistics.
const POLL: u16 = 0;

/// How the operator wants the balloon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonConfig {
    /// Size to reach, in MiB.
    pub amount_mib: u32,
    /// Guest RAM, in MiB: no target may be larger.
    pub ram_mib: u32,
    /// The guest may take pages back rather than run out of memory.
    pub deflate_on_oom: bool,
    /// Seconds between statistics; 0: no statistics queue.
    pub stats_polling_interval_s: u16,
    /// Offer free page hinting.
    pub free_page_hinting: bool,
    /// Offer free page reporting.
    pub free_page_reporting: bool,
}

/// One balloon.
pub struct Balloon {
    config: BalloonConfig,
    space: ConfigSpace,
    hinting: Hinting,
    stats: StatsQueue,
    timer: TimerFd,
    active: Option<Active>,
    pfns: Box<PfnBuffer>,
    backend: Box<dyn BalloonBackend>,
    metrics: Arc<BalloonMetrics>,
}

impl Balloon {
    /// A balloon that gives what it gets to `backend`. Fails if the target does not fit, or, as
    /// [`NewBalloonError::Host`], where the host has no timer to spare.
    pub fn new(
        config: BalloonConfig,
        backend: impl BalloonBackend + 'static,
    ) -> Result<Self, NewBalloonError> {
        Ok(Self {
            space: ConfigSpace { num_pages: pages(config, config.amount_mib)?, ..Default::default() },
            config,
            hinting: Hinting::default(),
            stats: StatsQueue::new(),
            timer: TimerFd::new().map_err(io::Error::from)?,
            active: None,
            pfns: PfnBuffer::new(),
            backend: Box::new(backend),
            metrics: Arc::default(),
        })
    }

    /// Its configuration as it is now.
    pub fn config(&self) -> BalloonConfig {
        self.config
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<BalloonMetrics> {
        &self.metrics
    }

    /// The size to reach, in pages of 4 KiB.
    pub fn target_pages(&self) -> u32 {
        self.space.num_pages
    }

    /// The size that the guest says it has reached, in pages of 4 KiB.
    pub fn actual_pages(&self) -> u32 {
        self.space.actual
    }

    /// Sets the size to reach, in MiB, and tells the driver.
    pub fn set_target_mib(&mut self, amount_mib: u32) -> Result<(), BalloonError> {
        self.space.num_pages = pages(self.config, amount_mib)?;
        self.config.amount_mib = amount_mib;
        self.tell_driver();
        Ok(())
    }

    /// What the guest said last of its memory.
    pub fn stats(&self) -> Result<GuestStats, BalloonError> {
        if self.config.stats_polling_interval_s == 0 {
            return Err(BalloonError::StatsOff);
        }
        Ok(self.stats.latest())
    }

    /// Sets the time between statistics, in seconds. It cannot become 0, nor stop being 0.
    pub fn set_stats_interval(&mut self, seconds: u16) -> Result<(), BalloonError> {
        match (self.config.stats_polling_interval_s, seconds) {
            (0, 0) => return Ok(()),
            (0, _) => return Err(BalloonError::StatsOff),
            (_, 0) => return Err(BalloonError::StatsStayOn),
            _ => self.config.stats_polling_interval_s = seconds,
        }
        self.arm_timer();
        Ok(())
    }

    /// Has the guest hint its free pages. With `acknowledge_on_stop` it gets them back as soon as it
    /// has named all, else at [`Self::hinting_stop`].
    pub fn hinting_start(&mut self, acknowledge_on_stop: bool) -> Result<(), BalloonError> {
        self.hinting_driven()?;
        self.hinting.start(acknowledge_on_stop);
        self.publish_hinting();
        Ok(())
    }

    /// Ends hinting; the guest gets its pages back.
    pub fn hinting_stop(&mut self) -> Result<(), BalloonError> {
        self.hinting_driven()?;
        self.hinting.stop();
        self.publish_hinting();
        Ok(())
    }

    /// Where hinting stands.
    pub fn hinting_status(&self) -> Result<HintingStatus, BalloonError> {
        if !self.config.free_page_hinting {
            return Err(BalloonError::HintingOff);
        }
        Ok(self.hinting.status())
    }

    /// The guest may be commanded to hint only while its driver is there and knows how.
    fn hinting_driven(&self) -> Result<(), BalloonError> {
        if !self.config.free_page_hinting {
            return Err(BalloonError::HintingOff);
        }
        match &self.active {
            Some(active) if active.has(feature::FREE_PAGE_HINT) => Ok(()),
            _ => Err(BalloonError::HintingNotDriven),
        }
    }

    fn publish_hinting(&mut self) {
        self.space.hint_command = self.hinting.status().host_cmd;
        self.tell_driver();
    }

    fn tell_driver(&self) {
        if let Some(active) = &self.active {
            active.interrupt.config_changed(&self.config_space());
        }
    }

    /// Sets the timer for the configured interval, or stops it while no driver fills the queue.
    fn arm_timer(&mut self) {
        let driven = self.active.as_ref().is_some_and(|active| active.has(feature::STATS_VQ));
        let interval = Duration::from_secs(self.config.stats_polling_interval_s.into());
        let set = if driven && !interval.is_zero() {
            self.timer.reset(interval, Some(interval))
        } else {
            self.timer.clear()
        };
        if let Err(cause) = set {
            self.metrics.timer_errors.inc();
            warn!(%cause, "the timer for balloon statistics could not be set");
        }
    }

    fn process_pfns(&mut self, index: usize, role: Role) -> Work {
        let Self { active: Some(active), pfns, backend, metrics, .. } = self else {
            return Work::Done;
        };
        active.serve(index, |memory, chain| {
            if role == Role::Inflate {
                metrics.inflate_buffers.inc();
                let sum = pfns.pass_on(memory, chain, metrics, |gfns| backend.inflate(gfns));
                metrics.inflated_pages.add(sum.accepted.into());
            } else {
                metrics.deflate_buffers.inc();
                let sum = pfns.pass_on(memory, chain, metrics, |gfns| backend.deflate(gfns));
                metrics.deflated_pages.add(sum.accepted.into());
            }
            Completion::Used(0)
        })
    }

    fn process_stats(&mut self, index: usize) -> Work {
        let Self { active: Some(active), stats, metrics, .. } = self else {
            return Work::Done;
        };
        active.serve(index, |memory, chain| stats.receive(memory, chain, metrics))
    }

    fn process_reports(&mut self, index: usize) -> Work {
        let Self { active: Some(active), space, backend, metrics, .. } = self else {
            return Work::Done;
        };
        let sink = RangeSink { keep: keeps_poison(active, space), backend: backend.as_ref(), metrics };
        active.serve(index, |_, chain| {
            for buffer in chain.buffers {
                metrics.reported_ranges.inc();
                sink.free(buffer, &metrics.reported_pages);
            }
            Completion::Used(0)
        })
    }

    fn process_hints(&mut self, index: usize) -> Work {
        let Self { active: Some(active), space, backend, metrics, hinting, .. } = self else {
            return Work::Done;
        };
        let sink = RangeSink { keep: keeps_poison(active, space), backend: backend.as_ref(), metrics };
        let mut changed = false;
        let work = active.serve(index, |memory, chain| {
            for buffer in chain.buffers {
                if !buffer.is_write_only() {
                    match memory.read_obj::<[u8; 4]>(buffer.addr()) {
                        Ok(id) if buffer.len() == 4 => {
                            changed |= hinting.guest_command(u32::from_le_bytes(id));
                        }
                        _ => metrics.bad_commands.inc(),
                    }
                } else if hinting.accepts() {
                    metrics.hinted_ranges.inc();
                    sink.free(buffer, &metrics.hinted_pages);
                } else {
                    metrics.stale_hints.inc();
                }
            }
            Completion::Used(0)
        });
        if changed {
            self.publish_hinting();
        }
        work
    }
}

/// Why there is no balloon.
#[derive(Debug, thiserror::Error)]
pub enum NewBalloonError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] BalloonError),
    /// The host gave no timer.
    #[error("the balloon got no timer from the host")]
    Host(#[from] io::Error),
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn features(&self) -> u64 {
        let BalloonConfig { deflate_on_oom, free_page_hinting, free_page_reporting, .. } = self.config;
        let stats = self.config.stats_polling_interval_s != 0;
        1 << feature::MUST_TELL_HOST
            | u64::from(stats) << feature::STATS_VQ
            | u64::from(deflate_on_oom) << feature::DEFLATE_ON_OOM
            | u64::from(free_page_hinting) << feature::FREE_PAGE_HINT
            | u64::from(free_page_hinting || free_page_reporting) << feature::PAGE_POISON
            | u64::from(free_page_reporting) << feature::REPORTING
            | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_count(&self, features: u64) -> usize {
        roles(features & self.features()).count()
    }

    fn config_space(&self) -> ConfigBytes {
        config_bytes(self.space.bytes())
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if !self.space.write(offset, data) {
            self.metrics.bad_config_writes.inc();
        }
    }

    fn activate(&mut self, active: Active) -> Result<(), ActivateError> {
        self.active = Some(active);
        self.arm_timer();
        Ok(())
    }

    fn process_queue(&mut self, index: usize) -> Work {
        let Some(active) = &self.active else {
            return Work::Done;
        };
        match roles(active.features).nth(index) {
            Some(role @ (Role::Inflate | Role::Deflate)) => self.process_pfns(index, role),
            Some(Role::Stats) => self.process_stats(index),
            Some(Role::Hinting) => self.process_hints(index),
            Some(Role::Reporting) => self.process_reports(index),
            None => Work::Done,
        }
    }

    fn own_events(&self) -> Vec<OwnEvent> {
        vec![OwnEvent { fd: self.timer.as_raw_fd(), token: POLL }]
    }

    fn process_event(&mut self, _token: u16) -> Option<usize> {
        // Setting the timer anew takes the event away without a read that might block.
        self.arm_timer();
        if let Some(active) = &mut self.active
            && let Some(index) = roles(active.features).position(|role| role == Role::Stats)
        {
            active.give_back(index, self.stats.release());
        }
        None
    }

    fn stop_queue(&mut self, index: usize) {
        if let Some(active) = &mut self.active {
            active.stop_queue(index);
        }
    }

    fn reset(&mut self) {
        // Before the driver has been there, nothing can be in the balloon.
        if self.active.take().is_some() {
            self.backend.reset_balloon();
        }
        self.arm_timer();
        self.stats.reset();
        self.hinting.reset();
        self.space = ConfigSpace { num_pages: self.space.num_pages, ..Default::default() };
    }
}

/// Whether free pages have to keep what they hold.
fn keeps_poison(active: &Active, space: &ConfigSpace) -> bool {
    active.has(feature::PAGE_POISON) && space.poison != 0
}

/// A size in pages, if the guest has as much.
fn pages(config: BalloonConfig, mib: u32) -> Result<u32, BalloonError> {
    let too_large = BalloonError::TooLarge { asked: mib, ram: config.ram_mib };
    if mib > config.ram_mib {
        return Err(too_large);
    }
    mib.checked_mul(PAGES_PER_MIB).ok_or(too_large)
}
