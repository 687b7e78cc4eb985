//! Whether the kernel counts what is mapped: with `vm.overcommit_memory=2` it maps no more than it could provide, and
//! `MAP_NORESERVE` does not help. Guest memory counts twice then, as arena and as guest space, though there is memory
//! behind one of them only (Documentation/mm/overcommit-accounting.rst).

use super::{Advice, Finding, Host, StartError, mib};

/// Mappings of the monitor besides: heap, and stacks of threads.
const OWN: u64 = 64 << 20;

impl Host {
    /// Bytes that can be mapped still; none where the kernel does not count.
    fn mappable(&self) -> Option<u64> {
        if self.read_number("/proc/sys/vm/overcommit_memory") != Some(2) {
            return None;
        }
        let info = self.read("/proc/meminfo").unwrap_or_default();
        let bytes = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kib << 10)
        };
        Some(bytes("CommitLimit:").unwrap_or(0).saturating_sub(bytes("Committed_AS:").unwrap_or(0)))
    }

    /// Refuses what cannot be mapped; warns where the kernel counts.
    pub(super) fn admit_mapping(&self, bytes: u64) -> Result<Option<Advice>, StartError> {
        let Some(room) = self.mappable() else { return Ok(None) };
        if room < bytes.saturating_add(OWN) {
            return Err(StartError::Overcommit(too_much(bytes, room)));
        }
        Ok(Some(strict(room)))
    }

    /// Why so much could not be mapped, where it is because the kernel counts.
    pub(super) fn refused_mapping(&self, bytes: u64) -> Option<Advice> {
        self.mappable().map(|room| too_much(bytes, room))
    }

    pub(super) fn overcommit(&self) -> Finding {
        match self.mappable() {
            None => Finding::Good("the kernel maps more than it has (vm.overcommit_memory)".to_owned()),
            Some(room) if room <= OWN => Finding::Bad(strict(room)),
            Some(room) => Finding::Poor(strict(room)),
        }
    }
}

fn strict(room: u64) -> Advice {
    Advice {
        what: format!(
            "vm.overcommit_memory is 2, which lets {} MiB more be mapped, and guests take twice their memory of that",
            mib(room)
        ),
        remedy: "set vm.overcommit_memory to 0 or 1, or raise vm.overcommit_ratio".to_owned(),
    }
}

fn too_much(bytes: u64, room: u64) -> Advice {
    Advice {
        what: format!(
            "vm.overcommit_memory is 2, which lets {} MiB more be mapped, and this guest takes {} MiB, its memory twice",
            mib(room),
            mib(bytes.saturating_add(OWN))
        ),
        remedy: "set vm.overcommit_memory to 0 or 1, or raise vm.overcommit_ratio, or ask for less memory"
            .to_owned(),
    }
}
