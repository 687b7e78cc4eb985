//! The subject of a measurement: memory of a synthetic guest, and who makes whole pages of what it gives
//! back.

use memsvc::core::units::FrameId;

use super::{bounds::Ledger, pages::Pages, report::Stalls};

/// Memory that a guest fills, gives back and takes back, and of which whole pages are asked for. What the guest
/// does may be done by many threads at once.
pub(super) trait Memory: Sync {
    /// All of it.
    fn pages(&self) -> Pages<'_>;

    /// The guest gives pages up.
    fn give(&self, pages: &[u32]) -> anyhow::Result<()>;

    /// The guest takes pages back, which it has given up. It touches them afterwards.
    fn take(&self, pages: &[u32]) -> anyhow::Result<()>;

    /// Takes a frame that cannot be moved; fails when there is none. `None` where there is no such thing.
    fn pin(&self) -> anyhow::Result<Option<FrameId>>;

    /// Gives such a frame back.
    fn unpin(&self, frame: FrameId) -> anyhow::Result<()>;

    /// Memory has been filled, and given back in pieces. `live` is what is live of each block of the guest;
    /// `pinned` are the frames that cannot move. All but the stated part of what is free is put aside.
    fn ready(&mut self, live: &[u16], pinned: &[FrameId]) -> anyhow::Result<Ledger>;

    /// Asks for one whole page. True when one was made.
    fn ask(&self) -> anyhow::Result<bool>;

    /// Gives all back that was got; `given` are the pages that the guest has given up.
    fn put_all(&self, given: &mut dyn Iterator<Item = u32>) -> anyhow::Result<()>;

    /// How it stands.
    fn standing(&self) -> anyhow::Result<Standing>;

    /// What was done so far to make whole pages. None when nobody tells.
    fn work(&self) -> Option<Work>;

    /// Fails if the guest cannot be served any more.
    fn is_well(&self) -> anyhow::Result<()>;
}

/// Memory at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Whole 2 MiB pages got, and held by who asked: the guest does not use them, the host could have them.
    pub(super) won: u64,
    /// Bytes behind the guest's memory.
    pub(super) resident: u64,
    /// Of these, in huge pages.
    pub(super) huge: u64,
}

/// What was done to make whole pages, since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Work {
    /// Frames moved so that blocks become free.
    pub(super) migrated: u64,
    /// Bytes copied, for that or for whatever else.
    pub(super) copied: u64,
    /// Blocks chosen to be emptied.
    pub(super) sources: u64,
    /// Of these, blocks won.
    pub(super) emptied: u64,
    /// Chances passed because attempts before had won nothing.
    pub(super) deferred: u64,
    /// Waits for a page on the move, as the service counts them.
    pub(super) stalls: Stalls,
}
