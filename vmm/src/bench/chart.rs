//! The chart: success and latency, step by step, one line for each policy.
//!
//! A column for each unmovable share; for each pattern four rows: success and latency at rest, and the same under
//! load, the first time. Lines differ by colour (told apart by the colour-blind, too) and by marker.

use std::collections::BTreeSet;

use plotters::{
    coord::{Shift, ranged1d::Ranged, types::RangedCoordf64},
    element::{DynElement, IntoDynElement, PointCollection},
    prelude::{
        Cartesian2d, ChartBuilder, ChartContext, Circle, Color, Cross, DrawingArea, DrawingBackend,
        IntoDrawingArea, IntoFont, IntoLogRange, IntoTextStyle, LineSeries, PathElement, RGBColor,
        SVGBackend, ShapeStyle, Text, TriangleMarker, WHITE,
    },
};

use super::{Pattern, Phase, Policy, Report, Run, Step};

/// Size of one plot, pixels.
const PLOT: (u32, u32) = (360, 230);
/// Height of the legend.
const LEGEND: u32 = 60;
const FONT: &str = "sans-serif";
/// Latencies below are drawn as this, µs.
const LEAST_US: f64 = 0.1;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What a plot shows of a step.
#[derive(Clone, Copy)]
enum What {
    Success,
    Latency,
}

/// The phases that are drawn.
const PHASES: [(&str, &str); 2] = [("rest", "at rest"), ("load_1", "under load")];

impl Policy {
    const fn colour(self) -> RGBColor {
        match self {
            Policy::Off => RGBColor(110, 110, 110),
            Policy::Scanner => RGBColor(230, 159, 0),
            Policy::Occupancy => RGBColor(0, 114, 178),
            Policy::Kernel => RGBColor(204, 61, 109),
        }
    }
}

/// The chart of a report, as an SVG that asks for no font of its own.
///
/// # Errors
/// The report says nothing that could be drawn.
pub fn svg(report: &Report) -> anyhow::Result<String> {
    let shares: BTreeSet<u32> = report.runs.iter().map(|run| run.unmovable_percent).collect();
    let has = |pattern: &Pattern| report.runs.iter().any(|run| run.pattern == *pattern);
    let patterns: Vec<Pattern> = Pattern::ALL.into_iter().filter(has).collect();
    anyhow::ensure!(!patterns.is_empty(), "There is nothing to draw: nothing was measured");
    let rows = patterns.len() * PHASES.len() * 2;
    let size = (PLOT.0 * shares.len() as u32, LEGEND + PLOT.1 * rows as u32);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (top, below) = root.split_vertically(LEGEND);
        legend(&top, report)?;
        let mut plots = below.split_evenly((rows, shares.len())).into_iter();
        for pattern in patterns {
            for phase in PHASES {
                for what in [What::Success, What::Latency] {
                    for &share in &shares {
                        let Some(area) = plots.next() else { break };
                        let is_here = |run: &&Run| run.pattern == pattern && run.unmovable_percent == share;
                        let runs: Vec<_> = report.runs.iter().filter(is_here).collect();
                        plot(&area, &runs, phase, what)?;
                    }
                }
            }
        }
        root.present()?;
    }
    Ok(text)
}

fn legend(area: &Area<'_>, report: &Report) -> anyhow::Result<()> {
    let title = format!(
        "Whole 2 MiB pages won of {} MiB, of which half was given back. Linux {}",
        report.memory_bytes >> 20,
        report.kernel_release
    );
    area.draw(&Text::new(title, (12, 10), (FONT, 15).into_font()))?;
    let used = Policy::ALL.into_iter().filter(|policy| report.runs.iter().any(|run| run.policy == *policy));
    for (at, policy) in (0..).zip(used) {
        let x = 16 + at * 105;
        area.draw(&PathElement::new([(x, 42), (x + 24, 42)], policy.colour().stroke_width(2)))?;
        area.draw(&mark(policy, (x + 12, 42)))?;
        area.draw(&Text::new(policy.name(), (x + 30, 36), (FONT, 13).into_font()))?;
    }
    Ok(())
}

fn points(phase: &Phase, what: What, of: fn(&Step) -> f64) -> Vec<(f64, f64)> {
    let is_there = |step: &&Step| matches!(what, What::Success) || step.latency.count > 0;
    phase.steps.iter().filter(is_there).map(|step| (step.asked_percent, of(step))).collect()
}

fn plot(area: &Area<'_>, runs: &[&Run], (name, said): (&str, &str), what: What) -> anyhow::Result<()> {
    let Some(first) = runs.first() else { return Ok(()) };
    let phase = |run: &Run| run.phases.iter().find(|phase| phase.name == name).cloned();
    let lines: Vec<(Policy, Phase)> = runs.iter().filter_map(|run| Some((run.policy, phase(run)?))).collect();
    let end = lines.iter().flat_map(|(_, phase)| phase.steps.last()).map(|step| step.asked_percent);
    let end = end.fold(100.0, f64::max);
    let caption = format!("{said}: {}, {} % unmovable", first.pattern, first.unmovable_percent);
    let mut builder = ChartBuilder::on(area);
    builder.caption(caption, (FONT, 13).into_font()).margin(6).x_label_area_size(34).y_label_area_size(52);
    let style = |text: i32| (FONT, text).into_text_style(area);
    match what {
        What::Success => {
            let mut chart = builder.build_cartesian_2d(0.0..end, 0.0..105.0)?;
            chart
                .configure_mesh()
                .x_desc("asked for, % of unused memory")
                .y_desc("success, % of request")
                .label_style(style(11))
                .light_line_style(WHITE)
                .x_labels(6)
                .x_label_formatter(&|percent| format!("{percent:.0}"))
                .y_labels(6)
                .y_label_formatter(&|percent| format!("{percent:.0}"))
                .draw()?;
            for (policy, phase) in &lines {
                line(&mut chart, *policy, points(phase, what, |step| step.success_of_request), true)?;
            }
        }
        What::Latency => {
            let longest = lines.iter().flat_map(|(_, phase)| &phase.steps).map(|step| step.latency.p99_us);
            let longest = longest.fold(10.0, f64::max);
            let mut chart = builder.build_cartesian_2d(0.0..end, (LEAST_US..longest * 2.0).log_scale())?;
            chart
                .configure_mesh()
                .x_desc("asked for, % of unused memory")
                .y_desc("latency, µs: mean, p99 thin")
                .label_style(style(11))
                .light_line_style(WHITE)
                .x_labels(6)
                .x_label_formatter(&|percent| format!("{percent:.0}"))
                .y_labels(6)
                .y_label_formatter(&|us| format!("{us}"))
                .draw()?;
            for (policy, phase) in &lines {
                line(
                    &mut chart,
                    *policy,
                    points(phase, what, |step| step.latency.p99_us.max(LEAST_US)),
                    false,
                )?;
                line(
                    &mut chart,
                    *policy,
                    points(phase, what, |step| step.latency.mean_us.max(LEAST_US)),
                    true,
                )?;
            }
        }
    }
    Ok(())
}

/// A line, thick and with markers or thin.
fn line<Y: Ranged<ValueType = f64>>(
    chart: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<RangedCoordf64, Y>>,
    policy: Policy,
    points: Vec<(f64, f64)>,
    is_main: bool,
) -> anyhow::Result<()> {
    let style: ShapeStyle =
        if is_main { policy.colour().stroke_width(2) } else { policy.colour().mix(0.5).stroke_width(1) };
    chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
    if is_main {
        chart.draw_series(points.into_iter().map(|point| mark(policy, point)))?;
    }
    Ok(())
}

/// The marker of a policy.
fn mark<DB: DrawingBackend, Coord: Clone + 'static>(
    policy: Policy,
    at: Coord,
) -> DynElement<'static, DB, Coord>
where
    for<'b> &'b Circle<Coord, i32>: PointCollection<'b, Coord>,
{
    let filled = policy.colour().filled();
    match policy {
        Policy::Off => Cross::new(at, 3, policy.colour().stroke_width(1)).into_dyn(),
        Policy::Scanner => TriangleMarker::new(at, 4, filled).into_dyn(),
        Policy::Occupancy => Circle::new(at, 3, filled).into_dyn(),
        Policy::Kernel => Circle::new(at, 3, policy.colour().stroke_width(1)).into_dyn(),
    }
}
