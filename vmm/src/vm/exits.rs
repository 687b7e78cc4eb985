//! How often the guest's CPUs left it for the monitor, and for what.

use serde_json::{Value, json};

use crate::devices::virtio::Counter;

/// Counts of one CPU. Its own thread alone raises them, and they share no cache line with those of another.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Exits {
    pub(super) io_in: Counter,
    pub(super) io_out: Counter,
    pub(super) mmio_read: Counter,
    pub(super) mmio_write: Counter,
    /// Exits that ended the guest.
    pub(super) failures: Counter,
    /// Times that KVM did not take the word that the guest had stood still.
    pub(super) clock_errors: Counter,
}

/// Those of all CPUs together, as counters of a device.
pub(crate) fn total<'a>(cpus: impl Iterator<Item = &'a Exits> + Clone) -> Value {
    let sum = |of: fn(&Exits) -> &Counter| cpus.clone().map(|exits| of(exits).get()).sum::<u64>();
    json!({
        "exits_io_in": sum(|exits| &exits.io_in),
        "exits_io_out": sum(|exits| &exits.io_out),
        "exits_mmio_read": sum(|exits| &exits.mmio_read),
        "exits_mmio_write": sum(|exits| &exits.mmio_write),
        "failures": sum(|exits| &exits.failures),
        "clock_errors": sum(|exits| &exits.clock_errors),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_cpus_are_added_up() {
        let cpus = [Exits::default(), Exits::default()];
        cpus[0].io_in.inc();
        cpus[1].io_in.inc();
        cpus[1].mmio_write.add(5);
        let all = total(cpus.iter());
        assert_eq!(
            (&all["exits_io_in"], &all["exits_io_out"], &all["exits_mmio_write"]),
            (&json!(2), &json!(0), &json!(5))
        );
    }
}
