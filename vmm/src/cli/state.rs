//! `aerostat pause` and `resume`: the guest's vCPUs stand still, or go on.

use serde::Serialize;

use super::{Outcome, args::Target, output};
use crate::api::types::{InstanceState, VmUpdate, WantedState};

/// What is said, for machines.
#[derive(Debug, Serialize)]
struct Done {
    version: u32,
    state: InstanceState,
}

/// Does it.
pub(super) fn set(target: &Target, state: WantedState) -> Outcome {
    target.client()?.patch("/vm", &VmUpdate { state })?;
    let (state, sentence) = match state {
        WantedState::Paused => (InstanceState::Paused, "The guest is paused.\n"),
        WantedState::Resumed => (InstanceState::Running, "The guest runs on.\n"),
    };
    output::answer(target.json, &Done { version: 1, state }, |_| sentence.to_owned())
}
