//! Whether the host can swap guest memory, and whether its kernel moves the right pages then.

use super::kernel::{Fixes, good_versions};
use super::{Advice, Finding, Host};

/// The meaning of the host's swap for guests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Swapping {
    /// There is none, or this control group may not use it.
    Impossible(String),
    /// The kernel has all fixes.
    Harmless(String),
    /// It lacks some, or may lack them.
    Hazard(Advice),
}

impl From<Swapping> for Finding {
    fn from(swapping: Swapping) -> Self {
        match swapping {
            Swapping::Impossible(note) | Swapping::Harmless(note) => Self::Good(note),
            Swapping::Hazard(advice) => Self::Bad(advice),
        }
    }
}

impl Host {
    pub(super) fn swapping(&self) -> Swapping {
        let areas = self.swap_areas();
        if areas.is_empty() && self.swap_bytes == 0 {
            return Swapping::Impossible("the host has no swap".to_owned());
        }
        if let Some(limit) = self.limit("memory.swap.max").filter(|limit| limit.bytes == 0) {
            return Swapping::Impossible(format!("{} keeps the host from swapping guests", limit.file));
        }
        let where_to = if areas.is_empty() { String::new() } else { format!(" to {}", areas.join(", ")) };
        let release = &self.kernel.release;
        let lacks = match self.kernel.fixes() {
            Fixes::All => {
                return Swapping::Harmless(format!(
                    "the host may swap guests{where_to}, and Linux {release} has the fixes for that"
                ));
            }
            Fixes::Lacks(fixes) => format!("Linux {release} lacks by its version {}", list(&fixes)),
            Fixes::Unknown(fixes) => {
                format!("the version of Linux {release} does not tell whether it has {}", list(&fixes))
            }
        };
        Swapping::Hazard(Advice {
            what: format!(
                "the host may swap guests{where_to}, and {lacks}, without which a guest can get a wrong page"
            ),
            remedy: format!(
                "turn swap off (swapoff -a), or start in a control group with memory.swap.max=0 (systemd: \
                 MemorySwapMax=0), or boot one of Linux {} or newer, or start with --allow-host-swap (allow_host_swap in \
                 the section memory) if you know that this kernel is fixed",
                good_versions()
            ),
        })
    }

    /// Devices and files that are swapped to. Compressed memory is one, too (zram), or before one (zswap).
    fn swap_areas(&self) -> Vec<String> {
        let text = self.read("/proc/swaps").unwrap_or_default();
        text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }
}

fn list(fixes: &[&str]) -> String {
    format!("the {} {}", if fixes.len() == 1 { "fix" } else { "fixes" }, fixes.join(" and "))
}
