//! The other side of the balloon: who takes the pages.

use std::sync::Arc;

use memsvc::{Gfn, MemoryService, Outcome};

/// What the balloon needs of the memory service. It refuses and counts what makes no sense (frames
/// outside RAM, twice the same, never inflated), so no call fails.
pub trait BalloonBackend: Send + Sync {
    /// The guest gives these frames up.
    fn inflate(&self, gfns: &[Gfn]) -> Outcome;
    /// The guest takes these frames back.
    fn deflate(&self, gfns: &[Gfn]) -> Outcome;
    /// This range (bytes of guest physical address space) is free now.
    fn report_free(&self, gpa: u64, len: u64) -> Outcome;
    /// All ballooned frames are the guest's again.
    fn reset_balloon(&self);
}

impl BalloonBackend for Arc<MemoryService> {
    fn inflate(&self, gfns: &[Gfn]) -> Outcome {
        self.as_ref().inflate(gfns)
    }

    fn deflate(&self, gfns: &[Gfn]) -> Outcome {
        self.as_ref().deflate(gfns)
    }

    fn report_free(&self, gpa: u64, len: u64) -> Outcome {
        self.as_ref().report_free(gpa, len)
    }

    fn reset_balloon(&self) {
        self.as_ref().reset_balloon();
    }
}
