//! Firecracker's form: serve the API, start what the configuration file says if there is one.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use anyhow::{Context, bail};
use serde_json::Value;

use super::{Outcome, args::ServeArgs, session::Session};
use crate::{api::control::Launcher, vm::config::VmConfig};

/// Longest configuration file in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Does it.
pub(super) fn serve(args: ServeArgs, launcher: Arc<dyn Launcher>) -> Outcome {
    let config = args.config_file.as_deref().map(read_config).transpose()?;
    let ServeArgs { api_sock, api_sock_mode, id, no_api, allow_host_swap, json, .. } = args;
    let api_sock = (!no_api).then_some(api_sock.as_path());
    Session { id, api_sock, api_sock_mode, config, allow_host_swap, json }.live(launcher)
}

/// Reads a configuration file; it is validated when it is loaded.
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
    if let Some(section) = array_for_object(&text) {
        bail!("The configuration file {} is not valid: {section} must be a JSON object.", path.display());
    }
    crate::json::parse(text.as_bytes())
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("The configuration file {} is not valid", path.display()))
}

/// Sections that are lists.
const LISTS: [&str; 2] = ["drives", "network-interfaces"];

/// A section that is an array and should not be.
fn array_for_object(text: &str) -> Option<String> {
    let document: serde_json::Map<String, Value> = serde_json::from_str(text).ok()?;
    let is_wrong = |(name, section): &(String, Value)| section.is_array() && !LISTS.contains(&name.as_str());
    document.into_iter().find(is_wrong).map(|(name, _)| name)
}
