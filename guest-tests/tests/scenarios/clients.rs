//! Programs that others made for Firecracker start our guests.

use guest_tests::Kernel;
use libtest_mimic::Trial;

use crate::ours;

/// With it set, there is a scenario for each kernel, and not only the oldest.
const ALL_KERNELS: &str = "AEROSTAT_CLIENTS_ALL_KERNELS";

type Life = fn(Kernel) -> anyhow::Result<()>;

const LIVES: [(&str, Life); 3] = [
    ("fctools_by_its_api", guest_clients::fctools_by_its_api),
    ("fctools_by_a_configuration_file", guest_clients::fctools_by_a_configuration_file),
    ("firepilot", guest_clients::firepilot),
];

pub(crate) fn trials() -> Vec<Trial> {
    let kernels = if std::env::var_os(ALL_KERNELS).is_some() { usize::MAX } else { 1 };
    let of_kernel = |kernel| LIVES.map(|(name, life)| (kernel, name, life));
    let lives = Kernel::present().take(kernels).flat_map(of_kernel);
    lives
        .filter_map(|(kernel, name, life)| {
            ours(&format!("clients::{kernel}_started_by_{name}"), move || life(kernel))
        })
        .collect()
}
