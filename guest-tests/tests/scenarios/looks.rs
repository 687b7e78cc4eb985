//! One guest for all scenarios that only look at it, or leave it as it was: a boot takes longer than a look.

use std::sync::{Mutex, PoisonError};

use guest_tests::{Subject, TestVm};
use libtest_mimic::Trial;

use crate::{guest, scenario};

/// Booted by the first that wants it; ends with this program.
static GUEST: Mutex<Option<TestVm>> = Mutex::new(None);

/// A scenario of that kind, about what only Aerostat has.
pub(crate) fn ours(
    name: &str,
    look: impl Fn(&mut TestVm) -> anyhow::Result<()> + Send + 'static,
) -> Option<Trial> {
    (Subject::from_environment() == Subject::Aerostat).then(|| shared(name, look))
}

/// A scenario of that kind that holds for every monitor.
pub(crate) fn shared(name: &str, look: impl Fn(&mut TestVm) -> anyhow::Result<()> + Send + 'static) -> Trial {
    scenario(name, move || {
        // After a scenario that panicked there is a guest or none, as after any other.
        let mut place = GUEST.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out meanwhile: one with which something went wrong is not looked at again.
        let mut vm = place.take().map_or_else(|| guest()?.start(), Ok)?;
        look(&mut vm).map_err(|error| vm.explain(&error))?;
        *place = Some(vm);
        Ok(())
    })
}
