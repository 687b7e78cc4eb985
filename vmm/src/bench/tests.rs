//! The benchmark in small: what it says adds up, whoever makes the pages.

use super::*;

#[test]
fn both_kinds_of_memory_are_measured_in_every_phase_and_what_is_said_adds_up() {
    let policies = [Policy::Occupancy, Policy::Kernel];
    let plan = Plan {
        memory_bytes: 128 << 20,
        policies: policies.to_vec(),
        unmovable_percents: vec![5],
        patterns: vec![Pattern::Half],
    };
    let mut last = None;
    let report = run(&plan, &mut |at| last = Some((at.done, at.all))).expect("a benchmark on this host");
    assert_eq!(last, Some((2 * 84, 2 * 84)));
    let measured: Vec<_> = report.runs.iter().map(|run| run.policy).collect();
    assert_eq!(measured, policies);
    for run in &report.runs {
        let names: Vec<_> = run.phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(names, ["rest", "load_1", "load_2", "rested"]);
        // Half of what was filled, and what was free.
        assert_eq!(run.live_frames, 60 * 512 / 2, "{:?}", run.policy);
        let pins = if run.policy == Policy::Kernel { 0 } else { 64 * 512 * 5 / 100 / 2 };
        assert_eq!(run.unmovable_frames, pins);
        assert!(run.attainable_blocks <= run.all_blocks && run.free_blocks < run.attainable_blocks);
        for phase in &run.phases {
            assert_eq!(phase.latency.count + phase.failure_latency.count, phase.asked);
            assert_eq!(phase.latency.count, phase.made);
            assert!(phase.won <= run.attainable_blocks, "{:?}: {phase:?}", run.policy);
            assert_eq!(phase.touches.is_some(), phase.name.starts_with("load"));
            assert_eq!(phase.steps.last().map(|step| (step.asked, step.won)), Some((phase.asked, phase.won)));
        }
        let rest = &run.phases[0];
        assert_eq!(rest.steps[19].asked, run.all_blocks);
        match &rest.work {
            // A collapse wins no page.
            None => assert_eq!((rest.won, run.policy), (run.free_blocks, Policy::Kernel)),
            Some(work) => {
                assert_eq!(rest.won, run.attainable_blocks);
                assert!(work.migrated_vs_fewest.is_some_and(|by| by >= 1.0), "{work:?}");
            }
        }
    }
    let chart = svg(&report).expect("a chart");
    assert!(chart.starts_with("<svg") && chart.trim_end().ends_with("</svg>"));
    assert!(chart.contains("half, 5 % unmovable"), "{chart}");
}

#[test]
fn memory_that_cannot_be_divided_or_had_is_refused_in_a_sentence() {
    let plan = |memory_bytes| Plan {
        memory_bytes,
        policies: vec![Policy::Off],
        unmovable_percents: vec![0],
        patterns: vec![Pattern::Group],
    };
    for bytes in [0, 126 << 20, 129 << 20] {
        let error = run(&plan(bytes), &mut |_| ()).expect_err("refused");
        assert_eq!(error.to_string(), "The memory to fill must be an even number of MiB, 128 at least");
    }
    let error = run(&plan(1 << 45), &mut |_| ()).expect_err("refused").to_string();
    assert!(error.ends_with("33554432 MiB are to be filled; ask for less with --memory"), "{error}");
}
