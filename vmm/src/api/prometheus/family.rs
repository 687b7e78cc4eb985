//! One family of metrics: a row of a table that says how it is called, what it means and how it is
//! read. A family has one sample, or one for each set of labels.

use std::fmt;

use memsvc::stats::LatencyStats;
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

/// A family that is read from an `S`.
pub(super) struct Family<S: 'static> {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    read: fn(&S, &mut Samples<'_>) -> fmt::Result,
}

impl<S> Family<S> {
    /// A number that goes up and down. `name` is whole and ends in its unit.
    pub(super) const fn gauge(
        name: &'static str,
        help: &'static str,
        read: fn(&S, &mut Samples<'_>) -> fmt::Result,
    ) -> Self {
        Self { name, kind: MetricType::Gauge, help, read }
    }

    /// A number that only grows, from the start of the guest. Samples are called `name` and `_total`.
    pub(super) const fn counter(
        name: &'static str,
        help: &'static str,
        read: fn(&S, &mut Samples<'_>) -> fmt::Result,
    ) -> Self {
        Self { name, kind: MetricType::Counter, help, read }
    }

    /// How many took how long, in seconds, from the start of the guest. Samples are called `name` and `_bucket`,
    /// `_sum` and `_count`.
    pub(super) const fn histogram(
        name: &'static str,
        help: &'static str,
        read: fn(&S, &mut Samples<'_>) -> fmt::Result,
    ) -> Self {
        Self { name, kind: MetricType::Histogram, help, read }
    }
}

/// Reads one field: `of!(guest.bytes)`; with a question mark one that may be unknown.
macro_rules! of {
    ($($field:ident).+) => { |from, to| to.put(from.$($field).+) };
    ($field:ident?) => { |from, to| to.put_known(from.$field) };
}
pub(super) use of;

/// Writes all families of a table.
pub(super) fn write<S>(to: &mut DescriptorEncoder<'_>, table: &[Family<S>], from: &S) -> fmt::Result {
    table.iter().try_for_each(|family| {
        let mut samples = Samples::begin(to, family.name, family.kind, family.help)?;
        (family.read)(from, &mut samples)
    })
}

/// Takes the samples of one family.
pub(super) struct Samples<'a> {
    encoder: MetricEncoder<'a>,
    kind: MetricType,
}

impl<'a> Samples<'a> {
    /// Writes what stands before the samples.
    pub(super) fn begin(
        to: &'a mut DescriptorEncoder<'_>,
        name: &'a str,
        kind: MetricType,
        help: &str,
    ) -> Result<Self, fmt::Error> {
        Ok(Self { encoder: to.encode_descriptor(name, help, None, kind)?, kind })
    }

    /// The one sample of a family without labels.
    pub(super) fn put(&mut self, value: impl Into<Number>) -> fmt::Result {
        sample(&mut self.encoder, self.kind, value.into())
    }

    /// The same, if it is known.
    pub(super) fn put_known(&mut self, value: Option<u64>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.put(value))
    }

    /// The sample with these labels: names and values.
    pub(super) fn with(&mut self, labels: impl EncodeLabelSet, value: impl Into<Number>) -> fmt::Result {
        sample(&mut self.encoder.encode_family(&labels)?, self.kind, value.into())
    }

    /// The histogram with these labels. All buckets are there, those of which none took so long too.
    pub(super) fn times(&mut self, labels: impl EncodeLabelSet, times: &LatencyStats) -> fmt::Result {
        let count =
            |below_us| times.buckets.iter().find(|it| it.below_us == below_us).map_or(0, |it| it.count);
        let buckets: [_; LatencyStats::BUCKETS] = std::array::from_fn(|bit| {
            let below_us = 1_u64 << bit;
            // Longer ones are in the last.
            let is_last = bit == LatencyStats::BUCKETS - 1;
            (if is_last { f64::INFINITY } else { below_us as f64 / 1e6 }, count(below_us))
        });
        let mut encoder = self.encoder.encode_family(&labels)?;
        encoder.encode_histogram::<NoLabelSet>(times.total_us as f64 / 1e6, times.count, &buckets, None)
    }

    /// A sample for each value of one label.
    pub(super) fn each<'v>(
        &mut self,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        values.into_iter().try_for_each(|(value, count)| self.with([(label, value)], count))
    }
}

fn sample(to: &mut MetricEncoder<'_>, kind: MetricType, value: Number) -> fmt::Result {
    match (kind, value) {
        (MetricType::Counter, Number::Count(count)) => to.encode_counter::<NoLabelSet, _, u64>(&count, None),
        (MetricType::Counter, Number::Real(real)) => to.encode_counter::<NoLabelSet, _, u64>(&real, None),
        (_, Number::Count(count)) => to.encode_gauge(&count),
        (_, Number::Real(real)) => to.encode_gauge(&real),
    }
}

/// The value of a sample.
#[derive(Clone, Copy)]
pub(super) enum Number {
    /// A count, in the unit that the name says.
    Count(u64),
    /// Anything else.
    Real(f64),
}

impl From<u64> for Number {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Number {
    fn from(real: f64) -> Self {
        Self::Real(real)
    }
}

impl From<u32> for Number {
    fn from(count: u32) -> Self {
        Self::Count(count.into())
    }
}

impl From<i32> for Number {
    fn from(number: i32) -> Self {
        Self::Real(number.into())
    }
}
