//! `aerostat pause` and `resume`: the guest's vCPUs stand still, or go on.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Outcome, args::Target, output};
use crate::api::types::{InstanceState, VmUpdate, WantedState};

/// The answer, for machines.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    /// The guest's state now.
    state: InstanceState,
}

/// Does it.
pub(super) fn set(target: &Target, state: WantedState) -> Outcome {
    target.client()?.patch("/vm", &VmUpdate { state })?;
    let (state, sentence) = match state {
        WantedState::Paused => (InstanceState::Paused, "The guest is paused.\n"),
        WantedState::Resumed => (InstanceState::Running, "The guest runs on.\n"),
    };
    output::answer(target.json, &Done { state }, |_| sentence.to_owned())
}
