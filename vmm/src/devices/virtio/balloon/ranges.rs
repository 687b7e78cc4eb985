//! Free ranges, as reporting and hinting queues carry them: a device-writable buffer whose address
//! and length *are* the range. Nothing is written into it; when it is given back, the driver may
//! use the range again.
//!
//! Where the guest fills free pages with a poison value other than zero and says so, it expects to
//! find that value again (section 5.5.6.7), so such ranges are kept as they are.

use memsvc::Outcome;
use virtio_queue::desc::split::Descriptor;

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
    /// Frees one range; `pages` counts what came of it.
    pub(super) fn free(&self, buffer: &Descriptor, pages: &Counter) {
        let (gpa, len) = (buffer.addr().0, u64::from(buffer.len()));
        let whole = gpa.is_multiple_of(PAGE) && len.is_multiple_of(PAGE);
        if !buffer.is_write_only() || len == 0 || !whole {
            return self.metrics.bad_ranges.inc();
        }
        if self.keep {
            return self.metrics.poisoned_ranges.inc();
        }
        let Outcome { accepted, refused } = self.backend.report_free(gpa, len);
        pages.add(accepted.into());
        self.metrics.refused_pages.add(refused.into());
    }
}
