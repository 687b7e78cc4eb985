//! `aerostat memory compaction`: how it is tuned, whether there is something to do, what it did by why.

use std::fmt::Write;

use memsvc::stats::{CompactionInfo, TriggerInfo};

use super::{
    super::{
        Outcome,
        args::Target,
        output,
        table::{self, Column, grouped},
    },
    amount::{frames, seconds},
    answer,
};
use crate::{api::client::ClientError, vm::config::CompactionConfig};

const PATH: &str = "/memory/compaction";

/// Tunes it if that is asked for, and shows it.
pub(super) fn compaction(change: CompactionConfig, target: &Target) -> Outcome {
    if change.is_default() {
        return answer(target, PATH, human);
    }
    let client = target.client()?;
    client.put::<()>(PATH, &change)?;
    // A guest that has not been started has a tuning, but nothing to show.
    match client.get::<CompactionInfo>(PATH) {
        Err(ClientError::NotStarted) => output::answer(target.json, &change, |_| {
            "Compaction is tuned so, from the start of the guest on.\n".to_owned()
        }),
        Ok(_) => answer(target, PATH, human),
        Err(error) => Err(error.into()),
    }
}

/// What `GET /memory/compaction` says.
fn human(info: &CompactionInfo) -> String {
    let tuning = &info.tuning;
    let score = match tuning.proactiveness {
        0 => format!("{} of 100; never compacted by itself", info.score),
        _ => format!(
            "{} of 100; compacted above {}, down to {}",
            info.score, info.start_score, info.target_score
        ),
    };
    let sized = |count| format!("{} frames ({})", grouped(count), frames(count));
    let mut text = table::pairs(&[
        ("policy", tuning.policy.to_string()),
        ("extfrag threshold", format!("{}, index now {}", tuning.extfrag_threshold, info.extfrag_index)),
        ("proactiveness", tuning.proactiveness.to_string()),
        ("score", score),
        ("holes", sized(info.holes)),
        ("scattered", sized(info.scattered_frames)),
        ("running", if info.running { "yes" } else { "no" }.to_owned()),
        ("blocks promoted", grouped(info.promoted_blocks)),
        (
            "background",
            format!(
                "woken {} times, deferred {}, {} of CPU",
                grouped(info.wakeups),
                grouped(info.deferred),
                seconds(info.background_cpu_us)
            ),
        ),
    ]);
    if !info.triggers.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(text, "\n{}", by_trigger(&info.triggers));
    }
    text
}

fn by_trigger(triggers: &[TriggerInfo]) -> String {
    let numbers = ["runs", "blocks tried", "won", "frames moved", "not moved", "huge split"];
    let header: Vec<_> = std::iter::once(Column::Left("why")).chain(numbers.map(Column::Right)).collect();
    let rows: Vec<_> = triggers
        .iter()
        .map(|it| {
            let counts =
                [it.runs, it.sources, it.blocks, it.migrated_frames, it.failed_frames, it.split_blocks];
            std::iter::once(it.trigger.name().to_owned()).chain(counts.map(grouped)).collect()
        })
        .collect();
    table::columns(&header, &rows)
}

#[cfg(test)]
mod tests {
    use memsvc::{core::compact::Tuning, stats::Trigger};

    use super::*;

    #[test]
    fn tuning_comes_first_then_what_was_done_by_why() {
        let tuning = Tuning::default();
        let info = CompactionInfo {
            tuning,
            score: 37,
            start_score: tuning.start_score(),
            target_score: tuning.target_score(),
            extfrag_index: -1000,
            holes: 1536,
            background_cpu_us: 12_345_678,
            triggers: vec![TriggerInfo {
                trigger: Trigger::Balloon,
                runs: 2,
                sources: 61,
                blocks: 60,
                migrated_frames: 15_360,
                failed_frames: 7,
                split_blocks: 59,
            }],
            ..CompactionInfo::default()
        };
        let text = human(&info);
        for line in [
            "policy             occupancy",
            "extfrag threshold  500, index now -1000",
            "score              37 of 100; compacted above 90, down to 80",
            "holes              1,536 frames (6 MiB)",
            "background         woken 0 times, deferred 0, 12.35 s of CPU",
            "why      runs  blocks tried  won  frames moved  not moved  huge split",
            "balloon     2            61   60        15,360          7          59",
        ] {
            assert!(text.lines().any(|said| said == line), "{line} is not in\n{text}");
        }
        let never = CompactionInfo { tuning: Tuning { proactiveness: 0, ..tuning }, ..info };
        assert!(human(&never).contains("37 of 100; never compacted by itself\n"));
    }
}
