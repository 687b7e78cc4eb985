//! Firecracker's form: serve the API, start what the configuration file says if there is one.

use std::{fs::File, io::Read, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use super::{Outcome, args::ServeArgs, mistake::BAD_ARGUMENTS, output, session::Session};
use crate::{
    api::{control::Launcher, logger::Logger},
    vm::config::VmConfig,
};

/// Longest configuration file in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Does it.
pub(super) fn serve(args: ServeArgs, launcher: Arc<dyn Launcher>) -> Outcome {
    if let Some(sentence) = args.absent.refusal() {
        output::failure(anyhow::anyhow!(sentence).as_ref(), args.json);
        return Ok(ExitCode::from(BAD_ARGUMENTS));
    }
    let logger = Logger::of_process(&args.id);
    if let Some(config) = args.outputs.logger() {
        logger.configure(&config)?;
    }
    args.idle.warn();
    Session {
        config: args.config_file.as_deref().map(read_config).transpose()?,
        logger,
        metrics: args.outputs.metrics(),
        startup: Some(&|| args.started.until_now()),
        is_served: !args.no_api,
        api_sock: Some(&args.api_sock),
        api_sock_mode: args.api_sock_mode,
        // Clients remove it themselves, and one fails where it is gone.
        leaves_socket: true,
        max_body: args.http_api_max_payload_size,
        id: args.id,
        allow_host_swap: args.allow_host_swap,
        json: args.json,
    }
    .live(launcher)
}

/// Reads a configuration file; it is validated when it is loaded. Sections that nobody knows are said in the log, as
/// Firecracker takes them.
pub(super) fn read_config(path: &Path) -> anyhow::Result<VmConfig> {
    let what = || format!("The configuration file {} cannot be read", path.display());
    let mut text = String::new();
    let file = File::open(path).with_context(what)?;
    file.take(MAX_CONFIG + 1).read_to_string(&mut text).with_context(what)?;
    if text.len() as u64 > MAX_CONFIG {
        bail!("The configuration file {} is longer than 1 MiB.", path.display());
    }
    // Serde would take the elements of an array for fields, by position.
    if !text.trim_start().starts_with('{') {
        bail!("The configuration file {} is not valid: it must be a JSON object.", path.display());
    }
    // What is no JSON is said below.
    let sections: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
    if let Some(section) = array_for_object(&sections) {
        bail!("The configuration file {} is not valid: {section} must be a JSON object.", path.display());
    }
    let config = crate::json::parse(text.as_bytes())
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("The configuration file {} is not valid", path.display()))?;
    for section in sections.keys().filter(|section| !VmConfig::has_section(section)) {
        tracing::warn!("The configuration file has a section {section:?}, which nobody knows: it is ignored");
    }
    Ok(config)
}

/// Sections that are lists.
const LISTS: [&str; 3] = ["drives", "network-interfaces", "pmem"];

/// A section that is an array and should not be.
fn array_for_object(sections: &Map<String, Value>) -> Option<&str> {
    let is_wrong = |(name, section): &(&String, &Value)| {
        section.is_array() && VmConfig::has_section(name) && !LISTS.contains(&name.as_str())
    };
    sections.iter().find(is_wrong).map(|(name, _)| name.as_str())
}
