//! The monitor is process 1 of a PID namespace, as in a container: its threads have numbers that the host's threads have,
//! too. Whoever frees memory is still known from others.

use guest_tests::noise::PID_NAMESPACE;
use libtest_mimic::Trial;

use super::works_through;
use crate::ours;

pub(super) fn trial() -> Option<Trial> {
    ours("noisy_host::has_a_pid_namespace_for_the_monitor", numbers)
}

fn numbers() -> anyhow::Result<()> {
    works_through(|spec| spec.under(PID_NAMESPACE.iter().copied()), || Ok(()), || (), |_| Ok(()))
}
