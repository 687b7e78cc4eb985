//! The figures of `GET /memory/compaction`. Holes and promoted blocks stand in `memory`.

use std::fmt;

use memsvc::{
    core::compact::PolicyKind,
    stats::{CompactionInfo, TriggerInfo},
};

use super::family::{Family, Samples, of};

/// How it is tuned, whether there is something to do, what was done.
pub(super) const FAMILIES: &[Family<CompactionInfo>] = &[
    Family::gauge("aerostat_memory_compaction_policy", "1 for the policy that decides", |from, to| {
        let policies = PolicyKind::ALL.map(|policy| (policy.name(), u64::from(policy == from.tuning.policy)));
        to.each("policy", policies)
    }),
    Family::gauge(
        "aerostat_memory_compaction_extfrag_threshold",
        "A request for a whole block that fails is helped where its extfrag_index is above this",
        |from, to| to.put(u64::from(from.tuning.extfrag_threshold)),
    ),
    Family::gauge(
        "aerostat_memory_compaction_proactiveness",
        "How eagerly memory is compacted that nobody has asked for: 0 never, to 100",
        |from, to| to.put(u64::from(from.tuning.proactiveness)),
    ),
    Family::gauge(
        "aerostat_memory_fragmentation_score",
        "Hundredths of the memory that nobody uses, holes with it, that are no whole blocks",
        of!(score),
    ),
    Family::gauge(
        "aerostat_memory_fragmentation_score_mark",
        "Proactive compaction starts above one of these scores, and rests below the other",
        |from, to| {
            to.each("mark", [("start", from.start_score.into()), ("target", from.target_score.into())])
        },
    ),
    Family::gauge(
        "aerostat_memory_compaction_extfrag_index",
        "Why a request for a whole block would fail if holes were free; compared with the threshold",
        of!(extfrag_index),
    ),
    Family::gauge(
        "aerostat_memory_scattered_frames",
        "Free frames in blocks that are not whole: memory that the host does not have back",
        of!(scattered_frames),
    ),
    Family::gauge("aerostat_memory_compaction_running", "1 while somebody compacts", |from, to| {
        to.put(u64::from(from.running))
    }),
    Family::counter("aerostat_memory_compaction_runs", "Compactions, by why", |from, to| {
        by_trigger(from, to, |trigger| trigger.runs)
    }),
    Family::counter(
        "aerostat_memory_compaction_source_blocks",
        "Blocks chosen to be emptied, by why",
        |from, to| by_trigger(from, to, |trigger| trigger.sources),
    ),
    Family::counter("aerostat_memory_compaction_won_blocks", "Of these, blocks won", |from, to| {
        by_trigger(from, to, |trigger| trigger.blocks)
    }),
    Family::counter("aerostat_memory_compaction_migrated_frames", "Frames moved, by why", |from, to| {
        by_trigger(from, to, |trigger| trigger.migrated_frames)
    }),
    Family::counter(
        "aerostat_memory_compaction_failed_frames",
        "Frames that would not move, by why they were to",
        |from, to| by_trigger(from, to, |trigger| trigger.failed_frames),
    ),
    Family::counter(
        "aerostat_memory_compaction_split_blocks",
        "Huge pages of the guest split where they were, to take what was moved, by why",
        |from, to| by_trigger(from, to, |trigger| trigger.split_blocks),
    ),
    Family::counter(
        "aerostat_memory_compaction_wakeups",
        "Times that the compactor woke up because something had changed",
        of!(wakeups),
    ),
    Family::counter(
        "aerostat_memory_compaction_deferred",
        "Times that it let a chance pass because attempts before had won nothing",
        of!(deferred),
    ),
    Family::counter(
        "aerostat_memory_compaction_cpu_seconds",
        "CPU time of the compactor's thread",
        |from, to| to.put(from.background_cpu_us as f64 / 1e6),
    ),
];

fn by_trigger(from: &CompactionInfo, to: &mut Samples<'_>, value: fn(&TriggerInfo) -> u64) -> fmt::Result {
    to.each("trigger", from.triggers.iter().map(|trigger| (trigger.trigger.name(), value(trigger))))
}
