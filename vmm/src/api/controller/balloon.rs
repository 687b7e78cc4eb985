//! The balloon calls of the [`Controller`]: what they need before the guest is asked.

use std::sync::Arc;

use super::{
    super::{
        control::{RunningVm, Statistics},
        types::{
            BalloonProgress, BalloonStats, BalloonStatsUpdate, BalloonUpdate, GuestStats, HintingStart,
            HintingStatus,
        },
    },
    ControlError, Controller,
};
use crate::vm::config::{BalloonConfig, ConfigError, Mib};

const PAGES_PER_MIB: u64 = 256;

impl Controller {
    /// `GET /balloon`, in every phase.
    pub fn balloon(&self) -> Result<&BalloonConfig, ControlError> {
        self.config.balloon.as_ref().ok_or(ControlError::NoBalloon)
    }

    /// `PATCH /balloon`.
    pub fn update_balloon(&mut self, update: BalloonUpdate) -> Result<(), ControlError> {
        let memory = self.config.machine_config.mem_size_mib;
        let (vm, balloon) = self.vm_and_balloon()?;
        let amount = update.amount_mib;
        if amount > memory {
            return Err(ConfigError::BalloonTooLarge { amount, memory }.into());
        }
        vm.set_balloon(amount)?;
        balloon.amount_mib = amount;
        tracing::info!(%amount, "The balloon has a new target");
        Ok(())
    }

    /// `GET /balloon/statistics`.
    pub fn balloon_stats(&mut self) -> Result<BalloonStats, ControlError> {
        let (vm, balloon) = self.vm_and_balloon()?;
        if balloon.stats_polling_interval_s == 0 {
            return Err(ControlError::StatsOff);
        }
        let actual_pages = vm.balloon_pages();
        Ok(BalloonStats {
            target_pages: balloon.amount_mib.pages(),
            actual_pages,
            target_mib: balloon.amount_mib,
            actual_mib: Mib(actual_pages / PAGES_PER_MIB),
            host_freed_mib: Mib(vm.host_freed_pages() / PAGES_PER_MIB),
            guest: vm.balloon_stats()?,
        })
    }

    /// The way to ask the guest for statistics, for `GET /balloon/statistics?fresh=true`.
    pub fn statistics(&mut self) -> Result<Arc<dyn Statistics>, ControlError> {
        let (vm, balloon) = self.vm_and_balloon()?;
        if balloon.stats_polling_interval_s == 0 {
            return Err(ControlError::StatsOff);
        }
        vm.statistics().ok_or(ControlError::NoBalloon)
    }

    /// `PATCH /balloon/statistics`.
    pub fn update_balloon_stats(&mut self, update: BalloonStatsUpdate) -> Result<(), ControlError> {
        let (vm, balloon) = self.vm_and_balloon()?;
        let seconds = update.stats_polling_interval_s;
        match (balloon.stats_polling_interval_s, seconds) {
            (0, 0) => return Ok(()),
            (0, _) => return Err(ControlError::StatsStayOff),
            (_, 0) => return Err(ControlError::StatsStayOn),
            _ => vm.set_stats_interval(seconds)?,
        }
        balloon.stats_polling_interval_s = seconds;
        Ok(())
    }

    /// `PATCH /balloon/hinting/start`.
    pub fn hinting_start(&mut self, start: HintingStart) -> Result<(), ControlError> {
        Ok(self.hinting_vm()?.hinting_start(start.acknowledge_on_stop)?)
    }

    /// `PATCH /balloon/hinting/stop`.
    pub fn hinting_stop(&mut self) -> Result<(), ControlError> {
        Ok(self.hinting_vm()?.hinting_stop()?)
    }

    /// `GET /balloon/hinting/status`.
    pub fn hinting_status(&mut self) -> Result<HintingStatus, ControlError> {
        Ok(self.hinting_vm()?.hinting_status()?)
    }

    /// How far the balloon is, if the guest runs and has one.
    pub(super) fn balloon_progress(&self) -> Option<BalloonProgress> {
        let (vm, balloon) = (self.vm.as_ref()?, self.config.balloon.as_ref()?);
        let actual_mib = Mib(vm.balloon_pages() / PAGES_PER_MIB);
        let host_freed_mib = Mib(vm.host_freed_pages() / PAGES_PER_MIB);
        Some(BalloonProgress { target_mib: balloon.amount_mib, actual_mib, host_freed_mib })
    }

    /// What the guest told last; nothing if it has no balloon or is not asked.
    pub(super) fn guest_stats(&self, vm: &dyn RunningVm) -> GuestStats {
        let is_asked =
            self.config.balloon.as_ref().is_some_and(|balloon| balloon.stats_polling_interval_s > 0);
        if is_asked { vm.balloon_stats().unwrap_or_default() } else { GuestStats::default() }
    }

    fn hinting_vm(&mut self) -> Result<&mut dyn RunningVm, ControlError> {
        let (vm, balloon) = self.vm_and_balloon()?;
        if !balloon.free_page_hinting {
            return Err(ControlError::HintingOff);
        }
        Ok(vm)
    }

    fn vm_and_balloon(&mut self) -> Result<(&mut dyn RunningVm, &mut BalloonConfig), ControlError> {
        let vm = self.vm.as_mut().ok_or(ControlError::BeforeStart)?;
        let balloon = self.config.balloon.as_mut().ok_or(ControlError::NoBalloon)?;
        Ok((vm.as_mut(), balloon))
    }
}
