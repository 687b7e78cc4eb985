//! Errors name the fields of a configuration; who gave flags of `run` is told of these.

use std::process::ExitCode;

use anyhow::anyhow;

use super::super::{Outcome, args::RunArgs, mistake::BAD_USAGE, output};
use crate::api::{controller::ControlError, sentence};

/// The flags of `run` that have set something, by the words that errors have for their fields.
pub(super) struct Named {
    /// Words of an error, and those that name the flag.
    words: Vec<(&'static str, &'static str)>,
    /// Nothing else has set anything.
    are_alone: bool,
    json: bool,
}

impl Named {
    /// The fields that these flags set, as far as errors name them.
    pub(super) fn by(args: &RunArgs) -> Self {
        let (disks, networks) = (!args.disk.is_empty(), !args.net.is_empty());
        let (swap, watermarks) = (args.swap.is_some(), args.watermarks.is_some());
        let all = [
            (args.append.is_some(), "boot_args", "--append"),
            (args.cpus.is_some(), "vcpu_count", "--cpus"),
            (args.memory.is_some(), "mem_size_mib", "--memory"),
            (args.memory_limit.is_some(), "The memory limit of", "The memory limit (--memory-limit) of"),
            (args.min_free.is_some(), "min_free_kib", "--min-free"),
            (watermarks, "min_kib", "MIN of --watermarks"),
            (watermarks, "low_kib", "LOW of --watermarks"),
            (watermarks, "high_kib", "HIGH of --watermarks"),
            (watermarks, "The watermarks must rise", "The watermarks (--watermarks) must rise"),
            (watermarks, "The high watermark of", "The watermark HIGH (--watermarks) of"),
            (args.balloon.is_some(), "The balloon of", "The balloon (--balloon) of"),
            (swap, "The swap device of", "The swap device (--swap) of"),
            (swap, "A swap device with tiers", "A swap device (--swap) with tiers"),
            (disks, " drives and ", " drives (--disk) and "),
            (networks, " network interfaces, but", " network interfaces (--net), but"),
            (networks, "host_dev_name ", "--net tap="),
            (networks, "guest_mac ", "--net mac="),
            (networks, "mtu is", "mtu of --net is"),
            (networks, "\" is no name of", "\" (--net tap=) is no name of"),
        ];
        let given = all.into_iter().filter(|(is_given, ..)| *is_given);
        Self {
            words: given.map(|(_, field, flag)| (field, flag)).collect(),
            are_alone: args.config_file.is_none(),
            json: args.json,
        }
    }

    /// Fails with the error, in their words. It is one of usage if they have said what cannot be.
    pub(super) fn fail(&self, error: &anyhow::Error) -> Outcome {
        let said = sentence(error.as_ref());
        let ours = self.words.iter().fold(said.clone(), |said, (field, flag)| said.replace(field, flag));
        let is_said =
            matches!(error.downcast_ref(), Some(ControlError::Config(error)) if !error.is_of_host());
        let (are_meant, error) = (self.are_alone || ours != said, anyhow!(ours));
        if is_said && are_meant {
            output::failure(error.as_ref(), self.json);
            return Ok(ExitCode::from(BAD_USAGE));
        }
        Err(error)
    }
}
