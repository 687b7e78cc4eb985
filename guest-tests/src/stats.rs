//! Median, least and most of a few measurements.

use serde::Serialize;

/// Summary of some runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// How many.
    pub runs: usize,
}

impl Summary {
    /// Summary of `values`; `None` where there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Self { median: f64::midpoint(lower, upper), min, max, runs: sorted.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle_of_odd_and_even_numbers_of_runs() {
        assert_eq!(Summary::of(&[]), None);
        let odd = Summary::of(&[9.0, 1.0, 4.0]);
        assert_eq!(odd, Some(Summary { median: 4.0, min: 1.0, max: 9.0, runs: 3 }));
        assert_eq!(Summary::of(&[4.0, 1.0, 9.0, 2.0]).map(|summary| summary.median), Some(3.0));
    }
}
