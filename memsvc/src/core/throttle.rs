//! stub until the branch lands
use std::time::Duration;
#[derive(Debug, Default)]
pub(crate) struct Throttle;
pub(crate) enum Waited {
    Back,
    TimedOut,
}
impl Throttle {
    pub(crate) fn wait(&self, _limit: Duration, ready: impl Fn() -> bool) -> Waited {
        if ready() { Waited::Back } else { Waited::TimedOut }
    }
    pub(crate) fn wake(&self) {}
}
impl Throttle {
    pub(crate) fn info(&self) -> crate::stats::ReserveInfo {
        Default::default()
    }
}
