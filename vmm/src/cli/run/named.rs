//! Errors name the fields of a configuration; who gave flags of `run` is told of these.

use anyhow::anyhow;

use super::super::args::RunArgs;
use crate::api::sentence;

/// A field as an error names it, and the flag that set it.
pub(super) struct Named(Vec<(&'static str, &'static str)>);

impl Named {
    /// The fields that these flags set, as far as errors name them.
    pub(super) fn by(args: &RunArgs) -> Self {
        let all = [
            (args.append.is_some(), "boot_args", "--append"),
            (args.cpus.is_some(), "vcpu_count", "--cpus"),
            (args.memory.is_some(), "mem_size_mib", "--memory"),
            (args.min_free.is_some(), "min_free_kib", "--min-free"),
            (args.watermarks.is_some(), "min_kib", "MIN of --watermarks"),
            (args.watermarks.is_some(), "low_kib", "LOW of --watermarks"),
            (args.watermarks.is_some(), "high_kib", "HIGH of --watermarks"),
            (!args.net.is_empty(), "host_dev_name ", "--net tap="),
            (!args.net.is_empty(), "guest_mac ", "--net mac="),
        ];
        Self(
            all.into_iter()
                .filter(|(is_given, ..)| *is_given)
                .map(|(_, field, flag)| (field, flag))
                .collect(),
        )
    }

    /// The error, in their words.
    pub(super) fn in_error(&self, error: &anyhow::Error) -> anyhow::Error {
        let said = sentence(error.as_ref());
        anyhow!(self.0.iter().fold(said, |said, (field, flag)| said.replace(field, flag)))
    }
}
