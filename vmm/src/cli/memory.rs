//! `aerostat memory`: what the memory service has and did.

use anyhow::Context;
use serde_json::{Map, Value};

use super::{
    Outcome,
    args::{MemoryArgs, MemoryCommand},
    output, table,
};
use crate::api::client::Client;

/// Does it.
pub(super) fn memory(args: MemoryArgs) -> Outcome {
    let MemoryCommand::Show(target) = args.command;
    let client = Client::new(&target.api_sock)?;
    let report: Map<String, Value> =
        client.get("/memory").context("The memory of the guest cannot be shown")?;
    output::answer(target.json, &report, table::render)
}
