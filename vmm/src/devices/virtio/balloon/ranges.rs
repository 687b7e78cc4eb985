//! Free ranges, as reporting and hinting queues carry them: a device-writable buffer whose address
//! and length *are* the range. Nothing is written into it; when it is given back, the driver may
//! use the range again.
//!
//! Where the guest fills free pages with a poison value other than zero and says so, it expects to
//! find that value again (section 5.5.6.7), so such ranges are kept as they are.

use memsvc::Outcome;
use virtio_queue::desc::split::Descriptor;

use super::turn::{Served, Share};
use super::{BalloonBackend, BalloonMetrics, PAGE};
use crate::devices::virtio::Counter;

/// Where free ranges go.
pub(super) struct RangeSink<'a> {
    pub(super) backend: &'a dyn BalloonBackend,
    pub(super) metrics: &'a BalloonMetrics,
    /// Free pages have to keep their content.
    pub(super) keep: bool,
}

impl RangeSink<'_> {
    /// Frees the part of a range that this turn has a share for. `ranges` counts it, `pages` what came of it.
    pub(super) fn free(
        &self,
        buffer: &Descriptor,
        share: Share,
        ranges: &Counter,
        pages: &Counter,
    ) -> Served {
        if share.is_first() {
            ranges.inc();
        }
        let (gpa, len) = (buffer.addr().0, u64::from(buffer.len()));
        let whole = gpa.is_multiple_of(PAGE) && len.is_multiple_of(PAGE);
        if !buffer.is_write_only() || len == 0 || !whole {
            self.metrics.bad_ranges.inc();
            return Served::whole(0);
        }
        if self.keep {
            self.metrics.poisoned_ranges.inc();
            return Served::whole(0);
        }
        let first = gpa / PAGE;
        let (part, served) = share.part(first..first + len / PAGE);
        if !part.is_empty() {
            let Outcome { accepted, refused } =
                self.backend.report_free(part.start * PAGE, (part.end - part.start) * PAGE);
            pages.add(accepted.into());
            self.metrics.refused_pages.add(refused.into());
        }
        served
    }
}
