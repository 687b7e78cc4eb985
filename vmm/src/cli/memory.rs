//! `aerostat memory`: what the memory service has and did, one file for each table; and compaction.
//!
//! | command | as |
//! | --- | --- |
//! | `show` | |
//! | `buddy` | `/proc/buddyinfo`, `extfrag/*_index` of debugfs |
//! | `types` | `/proc/pagetypeinfo` |
//! | `zone` | `/proc/zoneinfo` |
//! | `slabs` | `/proc/slabinfo` |
//! | `compaction` | `vm.extfrag_threshold`, `vm.compaction_proactiveness` |
//! | `compact` | `/proc/sys/vm/compact_memory` |
//! | `reclaim` | `memory.reclaim` of a cgroup |

pub(super) mod amount;
mod buddy;
mod compact;
mod compaction;
mod progress;
mod reclaim;
mod show;
mod slabs;
mod types;
pub(super) mod zone;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    Outcome,
    args::{MemoryArgs, MemoryCommand, Target},
    output,
};

/// Does it.
pub(super) fn memory(args: MemoryArgs) -> Outcome {
    match args.command {
        MemoryCommand::Show(target) => answer(&target, "/memory", show::human),
        MemoryCommand::Buddy(target) => answer(&target, "/memory/buddy", buddy::human),
        MemoryCommand::Types(target) => answer(&target, "/memory/types", types::human),
        MemoryCommand::Zone(target) => answer(&target, "/memory/zone", zone::human),
        MemoryCommand::Slabs(target) => answer(&target, "/memory/slabs", slabs::human),
        MemoryCommand::Compaction { tuning, target } => compaction::compaction(tuning.config(), &target),
        MemoryCommand::Compact(target) => compact::compact(&target),
        MemoryCommand::Reclaim { amount, target } => reclaim::reclaim(amount, &target),
    }
}

/// Asks for `path`, and prints the answer as it is or as `human` says it.
pub(super) fn answer<T: DeserializeOwned>(target: &Target, path: &str, human: fn(&T) -> String) -> Outcome {
    let report: Map<String, Value> = target.client()?.get(path)?;
    if target.json {
        return output::answer(true, &report, |_| String::new());
    }
    let report = serde_json::from_value(Value::Object(report)).context(
        "The guest's process says of its memory what this program cannot read: are they of one version?",
    )?;
    output::print(&human(&report))
}
