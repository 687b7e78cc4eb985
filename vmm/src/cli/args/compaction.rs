//! Flags that tune compaction: of `run`, where the policy has another name, and of `memory compaction`.

use clap::Args;
use memsvc::core::compact::PolicyKind;

use super::super::size;
use crate::vm::config::CompactionConfig;

/// When memory is compacted.
#[derive(Clone, Copy, Debug, Args)]
pub(in crate::cli) struct When {
    /// Compact for a huge page that cannot be had only where fragmentation is the reason: extfrag_index
    /// above this, 0 to 1000; 500 at first
    #[arg(long, value_name = "N", value_parser = size::extfrag_threshold, allow_hyphen_values = true)]
    extfrag_threshold: Option<u16>,
    /// How eagerly memory is compacted that nobody has asked for, 0 (never) to 100; 20 at first
    #[arg(long, value_name = "N", value_parser = size::proactiveness, allow_hyphen_values = true)]
    proactiveness: Option<u8>,
}

impl When {
    /// The same as configuration, with this policy.
    pub(in crate::cli) fn with(self, policy: Option<PolicyKind>) -> CompactionConfig {
        let Self { extfrag_threshold, proactiveness } = self;
        CompactionConfig { policy, extfrag_threshold, proactiveness }
    }
}

/// All that can be set.
#[derive(Clone, Copy, Debug, Args)]
pub(in crate::cli) struct TuningArgs {
    /// Policy by which memory is compacted: occupancy, scanner, or off
    #[arg(long, value_name = "POLICY")]
    policy: Option<PolicyKind>,
    #[command(flatten)]
    when: When,
}

impl TuningArgs {
    /// The same as configuration.
    pub(in crate::cli) fn config(self) -> CompactionConfig {
        self.when.with(self.policy)
    }
}
