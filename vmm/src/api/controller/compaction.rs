//! The compaction calls of the [`Controller`]: what they need before memory is moved.

use std::sync::Arc;

use memsvc::stats::CompactionInfo;

use super::{
    super::{control::Compaction, types::ReclaimRequest},
    ControlError, Controller,
};
use crate::vm::config::CompactionConfig;

impl Controller {
    /// `GET /memory/compaction`.
    pub fn compaction_info(&mut self) -> Result<CompactionInfo, ControlError> {
        Ok(self.running()?.compaction_info())
    }

    /// `PUT /memory/compaction`, in every phase.
    pub fn tune_compaction(&mut self, change: CompactionConfig) -> Result<(), ControlError> {
        let mut changed = self.config.clone();
        changed.memory.compaction = changed.memory.compaction.changed_by(change);
        changed.validate()?;
        if let Some(vm) = &mut self.vm {
            let tuning = changed.memory.compaction.tuning();
            vm.tune_compaction(tuning)?;
            tracing::info!(?tuning, "Compaction is tuned");
        }
        self.config = changed;
        Ok(())
    }

    /// What `PUT /memory/compact` needs. It is used without the controller, which others want meanwhile.
    pub fn compaction(&mut self) -> Result<Arc<dyn Compaction>, ControlError> {
        Ok(self.running()?.compaction())
    }

    /// What `PUT /memory/reclaim` needs, and the bytes that it asks for.
    pub fn reclaim(&mut self, request: ReclaimRequest) -> Result<(Arc<dyn Compaction>, u64), ControlError> {
        let (compaction, memory) = (self.compaction()?, self.config.machine_config.mem_size_mib);
        let asked = request.mib;
        match asked.bytes() {
            Some(0) => Err(ControlError::ReclaimNothing),
            Some(bytes) if asked <= memory => Ok((compaction, bytes)),
            _ => Err(ControlError::ReclaimTooMuch { asked, memory }),
        }
    }
}
