//! Free page hinting: on command the guest takes its free pages, names them, and holds them. On another
//! command they may be used again (section 5.5.6.6).
//!
//! ```text
//!            start                  guest: id              guest: STOP
//!   idle ───────────▶ commanded ───────────▶ hinting ───────────▶ stopped
//!   (STOP, DONE)      host_cmd = id ≥ 2       guest_cmd = id       guest_cmd = STOP
//!     ▲                                                               │
//!     └───────────── DONE: by `stop`, or at once if acknowledged ◀────┘
//! ```
//!
//! Ranges are freed only while the guest's command is the host's. Stock Linux may still take a page
//! that it named back under memory pressure before the range is served here; a guest that runs out
//! of memory should not be hinted. Reporting has no such gap.

use serde::{Deserialize, Serialize};

/// The guest ends its hints; the host has no command in force.
const STOP: u32 = 0;
/// The guest may use what it hinted again.
const DONE: u32 = 1;
/// Commands count from here.
const FIRST: u32 = 2;

/// Where hinting stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HintingStatus {
    /// Command of the host: 0 none, 1 done, from 2 a command in force.
    pub host_cmd: u32,
    /// The command that the guest last answered to, if any.
    pub guest_cmd: Option<u32>,
}

/// The state machine.
#[derive(Debug, Default)]
pub(super) struct Hinting {
    status: HintingStatus,
    last: u32,
    acknowledge_on_stop: bool,
}

impl Hinting {
    pub(super) fn status(&self) -> HintingStatus {
        self.status
    }

    /// A new command. The driver has to be told of it.
    pub(super) fn start(&mut self, acknowledge_on_stop: bool) {
        self.last = self.last.checked_add(1).unwrap_or(FIRST).max(FIRST);
        self.status.host_cmd = self.last;
        self.acknowledge_on_stop = acknowledge_on_stop;
    }

    /// The run is over; the guest may have its pages. The driver has to be told of it.
    pub(super) fn stop(&mut self) {
        self.status.host_cmd = DONE;
    }

    /// The guest answers with a command id. `true` if the host's command changed and the driver has
    /// to be told.
    pub(super) fn guest_command(&mut self, id: u32) -> bool {
        let was_hinting = self.accepts();
        self.status.guest_cmd = Some(id);
        if id == STOP && was_hinting && self.acknowledge_on_stop {
            self.stop();
            return true;
        }
        false
    }

    /// Whether a hinted range may be freed now.
    pub(super) fn accepts(&self) -> bool {
        self.status.host_cmd >= FIRST && self.status.guest_cmd == Some(self.status.host_cmd)
    }

    /// The driver is gone. Command ids go on, so that no old one comes to life again.
    pub(super) fn reset(&mut self) {
        self.status = HintingStatus::default();
    }
}
