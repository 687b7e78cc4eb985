//! The balloon: its queues served for the driver, as the operator asks through its [`BalloonControl`].

use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use memsvc::seldom;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::Bytes;
use vmm_sys_util::timerfd::TimerFd;

use super::config::ConfigSpace;
use super::control::BalloonControl;
use super::pfns::PfnBuffer;
use super::queues::{QUEUES, Role, roles};
use super::ranges::RangeSink;
use super::stats::StatsQueue;
use super::turn::{Progress, Served, Turn};
use super::{BalloonBackend, BalloonError, BalloonMetrics, GuestStats, feature};
use crate::devices::virtio::device::config_bytes;
use crate::devices::virtio::{
    ActivateError, Active, Completion, ConfigBytes, DeviceKind, OwnEvent, VirtioDevice, Work,
};

/// Time to ask for statistics.
const POLL: u16 = 0;
/// The operator asks for something.
const ASKED: u16 = 1;

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
    control: Arc<BalloonControl>,
    /// What the driver writes; the rest is filled in when it is shown.
    space: ConfigSpace,
    /// What the driver was told last, and the interval that the timer has.
    told: (ConfigSpace, u16),
    stats: StatsQueue,
    timer: TimerFd,
    active: Option<Active>,
    pfns: Box<PfnBuffer>,
    /// How far the chain is served that is next in each queue.
    progress: [Progress; QUEUES],
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
        let control = BalloonControl::new(&config)?;
        let told = ConfigSpace { num_pages: control.target_pages(), ..ConfigSpace::default() };
        Ok(Self {
            control: Arc::new(control),
            space: ConfigSpace::default(),
            told: (told, config.stats_polling_interval_s),
            config,
            stats: StatsQueue::new(),
            timer: TimerFd::new().map_err(io::Error::from)?,
            active: None,
            pfns: PfnBuffer::new(),
            progress: Default::default(),
            backend: Box::new(backend),
            metrics: Arc::default(),
        })
    }

    /// The operator's side of it.
    pub fn control(&self) -> &Arc<BalloonControl> {
        &self.control
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<BalloonMetrics> {
        &self.metrics
    }

    /// The size that the guest says it has reached, in pages of 4 KiB.
    pub fn actual_pages(&self) -> u32 {
        self.space.actual
    }

    /// Configuration space as it is now.
    fn space(&self) -> ConfigSpace {
        let asked = self.control.lock();
        ConfigSpace {
            num_pages: asked.target_pages,
            hint_command: asked.hinting.status().host_cmd,
            ..self.space
        }
    }

    /// Does what the operator asked for since the last time.
    fn do_as_asked(&mut self) {
        let (interval, wants_stats) = {
            let mut asked = self.control.lock();
            (asked.stats_interval_s, mem::take(&mut asked.wants_stats))
        };
        if interval != self.told.1 {
            self.told.1 = interval;
            self.arm_timer();
        }
        if wants_stats {
            self.ask_for_stats();
        }
        let (space, before) = (self.space(), self.told.0);
        if (space.num_pages, space.hint_command) != (before.num_pages, before.hint_command) {
            self.tell_driver(space);
        }
    }

    fn tell_driver(&mut self, space: ConfigSpace) {
        self.told.0 = space;
        if let Some(active) = &self.active {
            active.interrupt.config_changed(&config_bytes(space.bytes()));
        }
    }

    /// Sets the timer for the interval that is asked for, or stops it while no driver fills the queue.
    fn arm_timer(&mut self) {
        let driven = self.active.as_ref().is_some_and(|active| active.has(feature::STATS_VQ));
        let interval = Duration::from_secs(self.told.1.into());
        let set = if driven && !interval.is_zero() {
            self.timer.reset(interval, Some(interval))
        } else {
            self.timer.clear()
        };
        if let Err(cause) = set {
            self.metrics.timer_errors.inc();
            seldom!(warn, %cause, "the timer for balloon statistics could not be set");
        }
    }

    /// Gives the driver its buffers back, which it fills anew. One that it is filling already comes by itself.
    fn ask_for_stats(&mut self) {
        if let Some(active) = &mut self.active
            && let Some(index) = roles(active.features).position(|role| role == Role::Stats)
        {
            active.give_back(index, self.stats.release());
        }
    }

    fn process_pfns(&mut self, index: usize, role: Role) -> Work {
        let Self { active: Some(active), pfns, backend, metrics, progress, .. } = self else {
            return Work::Done;
        };
        let Some(progress) = progress.get_mut(index) else { return Work::Done };
        let mut turn = Turn::new(progress);
        let (buffers, pages) = match role {
            Role::Inflate => (&metrics.inflate_buffers, &metrics.inflated_pages),
            _ => (&metrics.deflate_buffers, &metrics.deflated_pages),
        };
        active.serve(index, |memory, chain| {
            let completion = turn.serve(chain, |buffer, _| {
                pfns.pass_on(memory, buffer, metrics, |gfns| {
                    let outcome = match role {
                        Role::Inflate => backend.inflate(gfns),
                        _ => backend.deflate(gfns),
                    };
                    pages.add(outcome.accepted.into());
                    outcome
                })
            });
            if completion != Completion::NextTurn {
                buffers.inc();
            }
            completion
        })
    }

    fn process_stats(&mut self, index: usize) -> Work {
        let Self { active: Some(active), stats, control, metrics, .. } = self else {
            return Work::Done;
        };
        active.serve(index, |memory, chain| {
            // What the buffer lacks keeps its last value.
            let mut latest = control.lock().stats;
            let (is_fresh, completion) = stats.receive(memory, chain, metrics, &mut latest);
            if is_fresh {
                let mut shared = control.lock();
                shared.stats = latest;
                shared.updates += 1;
            }
            completion
        })
    }

    fn process_reports(&mut self, index: usize) -> Work {
        let Self { active: Some(active), space, backend, metrics, progress, .. } = self else {
            return Work::Done;
        };
        let Some(progress) = progress.get_mut(index) else { return Work::Done };
        let mut turn = Turn::new(progress);
        let sink = RangeSink { keep: keeps_poison(active, space), backend: backend.as_ref(), metrics };
        active.serve(index, |_, chain| {
            turn.serve(chain, |buffer, share| {
                sink.free(buffer, share, &metrics.reported_ranges, &metrics.reported_pages)
            })
        })
    }

    fn process_hints(&mut self, index: usize) -> Work {
        let Self { active: Some(active), space, backend, metrics, control, progress, .. } = self else {
            return Work::Done;
        };
        let Some(progress) = progress.get_mut(index) else { return Work::Done };
        let mut turn = Turn::new(progress);
        let sink = RangeSink { keep: keeps_poison(active, space), backend: backend.as_ref(), metrics };
        let mut changed = false;
        let work = active.serve(index, |memory, chain| {
            turn.serve(chain, |buffer, share| {
                if !buffer.is_write_only() {
                    match memory.read_obj::<[u8; 4]>(buffer.addr()) {
                        Ok(id) if buffer.len() == 4 => {
                            changed |= control.lock().hinting.guest_command(u32::from_le_bytes(id));
                        }
                        _ => metrics.bad_commands.inc(),
                    }
                } else if control.lock().hinting.accepts() {
                    return sink.free(buffer, share, &metrics.hinted_ranges, &metrics.hinted_pages);
                } else {
                    metrics.stale_hints.inc();
                }
                Served::whole(0)
            })
        });
        if changed {
            self.tell_driver(self.space());
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
        config_bytes(self.space().bytes())
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if !self.space.write(offset, data) {
            self.metrics.bad_config_writes.inc();
        }
    }

    fn activate(&mut self, active: Active) -> Result<(), ActivateError> {
        self.control.lock().driven = active.features;
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
        vec![
            OwnEvent { fd: self.timer.as_raw_fd(), token: POLL },
            OwnEvent { fd: self.control.event(), token: ASKED },
        ]
    }

    fn process_event(&mut self, token: u16) -> Option<usize> {
        if token == ASKED {
            self.do_as_asked();
            return None;
        }
        // Setting the timer anew takes the event away without a read that might block.
        self.arm_timer();
        self.ask_for_stats();
        None
    }

    fn stop_queue(&mut self, index: usize) {
        if let Some(active) = &mut self.active {
            active.stop_queue(index);
        }
        if let Some(progress) = self.progress.get_mut(index) {
            *progress = Progress::default();
        }
    }

    fn reset(&mut self) {
        self.progress = Default::default();
        // Before the driver has been there, nothing can be in the balloon.
        if self.active.take().is_some() {
            self.backend.reset_balloon();
        }
        self.arm_timer();
        self.stats.reset();
        self.space = ConfigSpace::default();
        let mut shared = self.control.lock();
        shared.driven = 0;
        shared.stats = GuestStats::default();
        shared.hinting.reset();
    }
}

/// Whether free pages have to keep what they hold.
fn keeps_poison(active: &Active, space: &ConfigSpace) -> bool {
    active.has(feature::PAGE_POISON) && space.poison != 0
}
