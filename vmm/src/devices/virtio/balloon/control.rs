//! The operator's side of the balloon: what is asked of it, and what it has told. No call waits for the device.

use std::os::fd::RawFd;
use std::sync::MutexGuard;

use super::hinting::Hinting;
use super::{BalloonConfig, BalloonError, GuestStats, HintingStatus, PAGES_PER_MIB, feature};
use crate::devices::virtio::face::Face;

/// The face of one balloon.
#[derive(Debug)]
pub struct BalloonControl {
    face: Face<Shared>,
    ram_mib: u32,
    free_page_hinting: bool,
}

/// What device and operator share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Target, in pages.
    pub(super) target_pages: u32,
    /// Seconds between statistics; 0: no statistics queue.
    pub(super) stats_interval_s: u16,
    /// What the guest said last of its memory, and how often it has said something.
    pub(super) stats: GuestStats,
    pub(super) updates: u64,
    /// The guest is to be asked for them now.
    pub(super) wants_stats: bool,
    pub(super) hinting: Hinting,
    /// Features that the driver has acknowledged; 0 while there is none.
    pub(super) driven: u64,
}

impl BalloonControl {
    pub(super) fn new(config: &BalloonConfig) -> Result<Self, super::NewBalloonError> {
        let shared = Shared {
            target_pages: pages(config.ram_mib, config.amount_mib)?,
            stats_interval_s: config.stats_polling_interval_s,
            stats: GuestStats::default(),
            updates: 0,
            wants_stats: false,
            hinting: Hinting::default(),
            driven: 0,
        };
        let &BalloonConfig { ram_mib, free_page_hinting, .. } = config;
        Ok(Self { face: Face::new(shared)?, ram_mib, free_page_hinting })
    }

    /// For the device: to read what is asked, and to publish.
    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.face.lock()
    }

    /// For the device: something is asked.
    pub(super) fn event(&self) -> RawFd {
        self.face.event()
    }

    /// The size to reach, in pages of 4 KiB.
    pub fn target_pages(&self) -> u32 {
        self.lock().target_pages
    }

    /// Sets the size to reach, in MiB. The driver is told as soon as the device can.
    pub fn set_target_mib(&self, amount_mib: u32) -> Result<(), BalloonError> {
        let pages = pages(self.ram_mib, amount_mib)?;
        self.face.change(|shared| shared.target_pages = pages);
        Ok(())
    }

    /// What the guest said last of its memory.
    pub fn stats(&self) -> Result<GuestStats, BalloonError> {
        let shared = self.lock();
        if shared.stats_interval_s == 0 {
            return Err(BalloonError::StatsOff);
        }
        Ok(shared.stats)
    }

    /// Has the guest asked for its statistics now, before their time. How often it has told some so far.
    pub fn ask_for_stats(&self) -> u64 {
        self.face.change(|shared| {
            shared.wants_stats = true;
            shared.updates
        })
    }

    /// How often the guest has told statistics.
    pub fn stats_updates(&self) -> u64 {
        self.lock().updates
    }

    /// Sets the time between statistics, in seconds, and asks for some now. It cannot become 0, nor stop being 0.
    pub fn set_stats_interval(&self, seconds: u16) -> Result<(), BalloonError> {
        self.face.change(|shared| match (shared.stats_interval_s, seconds) {
            (0, 0) => Ok(()),
            (0, _) => Err(BalloonError::StatsOff),
            (_, 0) => Err(BalloonError::StatsStayOn),
            _ => {
                shared.stats_interval_s = seconds;
                shared.wants_stats = true;
                Ok(())
            }
        })
    }

    /// Has the guest hint its free pages. With `acknowledge_on_stop` it gets them back as soon as it
    /// has named all, else at [`Self::hinting_stop`].
    pub fn hinting_start(&self, acknowledge_on_stop: bool) -> Result<(), BalloonError> {
        self.command_hinting(|hinting| hinting.start(acknowledge_on_stop))
    }

    /// Ends hinting; the guest gets its pages back.
    pub fn hinting_stop(&self) -> Result<(), BalloonError> {
        self.command_hinting(Hinting::stop)
    }

    /// Where hinting stands.
    pub fn hinting_status(&self) -> Result<HintingStatus, BalloonError> {
        if !self.free_page_hinting {
            return Err(BalloonError::HintingOff);
        }
        Ok(self.lock().hinting.status())
    }

    /// The guest may be commanded to hint only while its driver is there and knows how.
    fn command_hinting(&self, command: impl FnOnce(&mut Hinting)) -> Result<(), BalloonError> {
        if !self.free_page_hinting {
            return Err(BalloonError::HintingOff);
        }
        self.face.change(|shared| {
            if shared.driven & (1 << feature::FREE_PAGE_HINT) == 0 {
                return Err(BalloonError::HintingNotDriven);
            }
            command(&mut shared.hinting);
            Ok(())
        })
    }
}

/// A size in pages, if the guest has as much.
fn pages(ram_mib: u32, mib: u32) -> Result<u32, BalloonError> {
    let too_large = BalloonError::TooLarge { asked: mib, ram: ram_mib };
    if mib > ram_mib {
        return Err(too_large);
    }
    mib.checked_mul(PAGES_PER_MIB).ok_or(too_large)
}
