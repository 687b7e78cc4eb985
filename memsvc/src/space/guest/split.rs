//! A split guest block: which frame is behind each page, and where it is at the moment.
//!
//! ```text
//!              a touch: a frame moves in              the mover takes it
//!   ┌────────┐ ─────────────────────────▶ ┌────────┐ ────────────────────▶ ┌────────┐
//!   │ Absent │                            │  Here  │                       │  Busy  │
//!   └────────┘ ◀───────────────────────── └────────┘ ◀──────────────────── └────────┘
//!        ▲        given up: it goes home       ▲   it arrives, in this         │ ▲
//!        │                                     │   frame or in another         │ │ the mover
//!        │      given up            ┌────────┐ │ a touch, or the mover         │ │ takes it
//!        └────────────────────────── │ AtHome │ ┘                               │ │
//!                                   └────────┘ ◀───────────────────────────────┘ │
//!                                        │   given up half-way                   │
//!                                        └───────────────────────────────────────┘
//! ```
//! Only a mover touches what is `Busy`; all others wait until it is not. What is `AtHome` lies in its home
//! slot and is brought in by whoever needs it first.

use crate::core::bitmap::BlockBitmap;
use crate::core::units::{FRAMES_PER_BLOCK, FrameId};

/// Where a page of a split block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Nothing is behind it.
    Absent,
    /// This frame is, and the guest can reach it.
    Here(FrameId),
    /// This frame is, in its home slot.
    AtHome(FrameId),
    /// A mover has it.
    Busy,
}

/// Where a page that is at home is to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Target {
    /// In, as it is.
    #[default]
    Same,
    /// Into this frame first.
    Frame(FrameId),
    /// It has gone there.
    Reached(FrameId),
}

/// Frames behind a split block, by index.
#[derive(Debug)]
pub(super) struct SplitBlock {
    /// Of pages behind which there is one.
    frames: [FrameId; FRAMES_PER_BLOCK],
    present: BlockBitmap,
    at_home: BlockBitmap,
    busy: BlockBitmap,
    /// Absent ones that the guest has reported free, and not touched since.
    reported: BlockBitmap,
    /// Empty, or one for each page: said by a mover, until it takes it back.
    targets: Vec<Target>,
    /// Of these, how many are not [`Target::Same`].
    targeted: usize,
}

impl SplitBlock {
    /// Nothing behind any page.
    pub(super) fn absent() -> Self {
        let none = BlockBitmap::EMPTY;
        Self {
            frames: [FrameId(0); FRAMES_PER_BLOCK],
            present: none,
            at_home: none,
            busy: none,
            reported: none,
            targets: Vec::new(),
            targeted: 0,
        }
    }

    pub(super) fn page(&self, index: usize) -> Page {
        match self.frames[index] {
            _ if self.busy.contains(index) => Page::Busy,
            _ if !self.present.contains(index) => Page::Absent,
            frame if self.at_home.contains(index) => Page::AtHome(frame),
            frame => Page::Here(frame),
        }
    }

    /// Sets where a page is, which is not [`Page::Busy`] from now on.
    pub(super) fn set(&mut self, index: usize, page: Page) {
        self.busy.remove(index);
        self.at_home.remove(index);
        self.frames[index] = match page {
            Page::Absent => {
                self.present.remove(index);
                return;
            }
            Page::Here(frame) => {
                self.reported.remove(index);
                frame
            }
            Page::AtHome(frame) => {
                self.at_home.insert(index);
                frame
            }
            Page::Busy => unreachable!("a page becomes busy by take()"),
        };
        self.present.insert(index);
    }

    /// The guest does not use this page, which is absent.
    pub(super) fn report(&mut self, index: usize) {
        self.reported.insert(index);
    }

    /// Absent pages that the guest has reported free.
    pub(super) fn reported(&self) -> &BlockBitmap {
        &self.reported
    }

    /// A mover has this page from now on, until it sets where it is.
    pub(super) fn take(&mut self, index: usize) {
        self.busy.insert(index);
    }

    /// True when a mover has any of it.
    pub(super) fn is_moving(&self) -> bool {
        !self.busy.is_empty()
    }

    /// True when nothing is behind any page, and no mover at it.
    pub(super) fn is_empty(&self) -> bool {
        self.present.is_empty() && self.is_left_alone()
    }

    /// True when no mover has any of it, nor has still to hear where a page has gone. Only then may this be
    /// forgotten.
    pub(super) fn is_left_alone(&self) -> bool {
        !self.is_moving() && self.targeted == 0
    }

    /// Frames behind it.
    pub(super) fn len(&self) -> usize {
        self.present.len()
    }

    /// Pages at home, those that a mover has not.
    pub(super) fn at_home(&self) -> impl Iterator<Item = usize> + use<> {
        let busy = self.busy;
        self.at_home.iter().filter(move |&index| !busy.contains(index))
    }

    pub(super) fn target(&self, index: usize) -> Target {
        self.targets.get(index).copied().unwrap_or_default()
    }

    pub(super) fn set_target(&mut self, index: usize, target: Target) {
        if self.targets.is_empty() {
            if target == Target::Same {
                return;
            }
            self.targets = vec![Target::Same; FRAMES_PER_BLOCK];
        }
        let before = std::mem::replace(&mut self.targets[index], target);
        self.targeted += usize::from(target != Target::Same);
        self.targeted -= usize::from(before != Target::Same);
        if self.targeted == 0 {
            self.targets = Vec::new();
        }
    }
}
