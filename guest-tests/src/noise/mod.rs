//! Kinds of noise on a host: each lasts for as long as its value lives.
//!
//! All of them change the whole host, so scenarios use them in the nested host only, which is made for one run. What a
//! monitor inherits from whoever starts it is said in words that go before its command ([`Spec::under`]).
//!
//! [`Spec::under`]: crate::Spec::under

mod cgroup;
mod ksm;
mod zram;

use std::fs;
use std::path::Path;

use anyhow::Context;

pub use self::cgroup::Cgroup;
pub use self::ksm::{Ksm, Merged};
pub use self::zram::{Traffic, Zram};

/// Starts a monitor in a PID namespace of its own, where it is process 1 and its threads have small numbers. The process
/// that a [`TestVm`](crate::TestVm) knows is `unshare`, which takes the monitor with it.
pub const PID_NAMESPACE: &[&str] = &["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// Writes what the kernel wants in one call.
fn set(path: &Path, value: &str) -> anyhow::Result<()> {
    fs::write(path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The number in a line `NAME 123`.
fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let text = "pswpin 12\npswpout 34\noom_kill 0\n";
        assert_eq!(number(text, "pswpout"), Some(34));
        assert_eq!(number(text, "pswp"), None);
        assert_eq!(number(text, "oom"), None);
    }
}
