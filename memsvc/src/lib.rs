//! Guest memory service: see ARCHITECTURE.md. (Interface first; bodies are being written.)
use std::sync::Arc;

/// Guest frame number: guest physical address divided by 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gfn(pub u64);

/// Where one region of guest RAM lies in guest physical address space; bytes, 2 MiB aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// First guest physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u64,
}

/// One region of guest RAM with its host mapping.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Where the guest sees it.
    pub spec: RegionSpec,
    /// Where this process sees it (start of the mapping).
    pub host: usize,
}

/// What a batch of balloon requests came to, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Frames that changed hands.
    pub accepted: u32,
    /// Frames refused (outside RAM, twice the same, never inflated): counted in [`MemoryStats`].
    pub refused: u32,
}

/// Everything `GET /memory` says. (Fields come with the body.)
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct MemoryStats {}

/// Configuration of the service.
#[derive(Clone, Debug)]
pub struct Config {
    /// Guest RAM.
    pub regions: Vec<RegionSpec>,
}

/// Why the service cannot start: one sentence that says what is missing and how to give it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// The service of one guest. All methods may be called from any thread.
#[derive(Debug)]
pub struct MemoryService {}

impl MemoryService {
    /// Maps arena and guest space and starts the fault handler and the stash refiller.
    pub fn new(_config: &Config) -> Result<Arc<Self>, StartError> { todo!() }
    /// Guest RAM as mapped in this process; absent until touched.
    pub fn regions(&self) -> &[Region] { todo!() }
    /// The guest gives these frames up (balloon inflate).
    pub fn inflate(&self, _gfns: &[Gfn]) -> Outcome { todo!() }
    /// The guest takes these frames back (balloon deflate).
    pub fn deflate(&self, _gfns: &[Gfn]) -> Outcome { todo!() }
    /// The guest says that this range (guest physical bytes) is free now (reporting, hinting).
    /// Whole blocks are freed; smaller pieces are kept and counted.
    pub fn report_free(&self, _gpa: u64, _len: u64) -> Outcome { todo!() }
    /// The balloon device was reset: what was ballooned is the guest's again.
    pub fn reset_balloon(&self) { todo!() }
    /// Frames now in the balloon, by our own ledger.
    pub fn ballooned_frames(&self) -> u64 { todo!() }
    /// A snapshot of all counters and states.
    pub fn stats(&self) -> MemoryStats { todo!() }
}
