//! The guest's swap, and the hogs that need it.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use guest_agent::{Content, Hogs, HogsRequest, NbdDevice, SwapRequest};

use super::{AgentClient, Answer, Context, Pages, Request, WRONG_DATA, bail, unexpected};

/// Between two looks at hogs: every answer goes over the serial port, byte by byte.
const INTERVAL: Duration = Duration::from_secs(1);

/// What hogs are to be.
#[derive(Clone, Copy, Debug)]
pub struct Herd {
    /// How many.
    pub processes: u32,
    /// Memory of each.
    pub mib: u64,
    /// Seed of their pages.
    pub seed: u64,
    /// What these hold.
    pub content: Content,
}

impl Herd {
    /// Pages of all of them.
    #[must_use]
    pub fn pages(&self) -> u64 {
        u64::from(self.processes) * self.mib * 256
    }
}

/// What the kernel has moved to and from swap since it booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapTraffic {
    /// Pages read (`pswpin`).
    pub pages_in: u64,
    /// Pages written (`pswpout`).
    pub pages_out: u64,
}

/// One method for each request.
///
/// # Errors
/// All as [`AgentClient::call`].
#[allow(clippy::missing_errors_doc, reason = "said once above")]
impl AgentClient {
    /// Connects the guest's NBD client to `ADDRESS:PORT`.
    pub fn nbd_connect(&mut self, server: &str, export: &str, connections: u32) -> anyhow::Result<NbdDevice> {
        let (server, export) = (server.to_owned(), export.to_owned());
        match self.call(Request::Swap(SwapRequest::Connect { server, export, connections }))? {
            Answer::Connected(device) => Ok(device),
            other => unexpected(&other),
        }
    }

    /// Disconnects a device.
    pub fn nbd_disconnect(&mut self, device: &str) -> anyhow::Result<()> {
        self.done(Request::Swap(SwapRequest::Disconnect { device: device.to_owned() }))
    }

    /// Makes swap of a device and turns it on.
    pub fn swap_on(&mut self, device: &str, discard: bool) -> anyhow::Result<()> {
        self.done(Request::Swap(SwapRequest::On { device: device.to_owned(), discard }))
    }

    /// Turns swap off.
    pub fn swap_off(&mut self, device: &str) -> anyhow::Result<()> {
        self.done(Request::Swap(SwapRequest::Off { device: device.to_owned() }))
    }

    /// What a swap area holds, in MiB (`/proc/swaps`); `None` where it is not turned on.
    pub fn swap_used_mib(&mut self, device: &str) -> anyhow::Result<Option<u64>> {
        Ok(swap_used_kib(&self.read_file("/proc/swaps")?, device).map(|kib| kib >> 10))
    }

    /// What went to and from swap.
    pub fn swap_traffic(&mut self) -> anyhow::Result<SwapTraffic> {
        let counters = self.vmstat(&["pswpin", "pswpout"])?;
        let count = |name: &str| counters.get(name).copied().with_context(|| format!("vmstat has no {name}"));
        Ok(SwapTraffic { pages_in: count("pswpin")?, pages_out: count("pswpout")? })
    }

    /// Starts hogs, which write all of their pages.
    pub fn hogs_begin(&mut self, herd: Herd) -> anyhow::Result<()> {
        self.done(begin(herd))
    }

    /// The same in a guest that may never answer.
    pub fn hogs_send(&mut self, herd: Herd) -> anyhow::Result<()> {
        self.send(begin(herd)).map(drop)
    }

    /// Starts hogs and waits until they have written all of their pages.
    pub fn hogs_start(&mut self, herd: Herd, patience: Duration) -> anyhow::Result<Hogs> {
        self.hogs_begin(herd)?;
        self.hogs_until(patience, |hogs| hogs.ready == herd.processes)
    }

    /// Lets hogs read, and count from now on how long page-ins take.
    pub fn hogs_read(&mut self) -> anyhow::Result<()> {
        self.done(Request::Hogs(HogsRequest::Read))
    }

    /// How far hogs are: an error if one was lost or has found a wrong page.
    pub fn hogs_status(&mut self) -> anyhow::Result<Hogs> {
        self.hogs(HogsRequest::Status)
    }

    /// How far hogs are, whatever became of them, if a guest that may be stuck says so in time.
    pub fn hogs_within(&mut self, patience: Duration) -> anyhow::Result<Option<Hogs>> {
        let id = self.send(Request::Hogs(HogsRequest::Status))?;
        match self.receive(id, patience) {
            Ok(Answer::Hogs(hogs)) => Ok(Some(hogs)),
            Ok(other) => unexpected(&other),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("its serial port is closed: the monitor has ended"),
        }
    }

    /// Waits until hogs have come so far.
    pub fn hogs_until(&mut self, patience: Duration, done: impl Fn(&Hogs) -> bool) -> anyhow::Result<Hogs> {
        let end = Instant::now() + patience;
        loop {
            let hogs = self.hogs_status()?;
            if done(&hogs) {
                return Ok(hogs);
            }
            if Instant::now() > end {
                bail!("hogs do not get there within {patience:?}: {hogs:?}");
            }
            std::thread::sleep(INTERVAL);
        }
    }

    /// Ends hogs.
    pub fn hogs_stop(&mut self) -> anyhow::Result<Hogs> {
        self.hogs(HogsRequest::Stop)
    }

    fn hogs(&mut self, request: HogsRequest) -> anyhow::Result<Hogs> {
        match self.call(Request::Hogs(request))? {
            Answer::Hogs(hogs) if hogs.lost > 0 => bail!("{} hogs were killed: {hogs:?}", hogs.lost),
            Answer::Hogs(hogs) if hogs.wrong > 0 => {
                bail!("{} of {} pages {WRONG_DATA}", hogs.wrong, hogs.verified)
            }
            Answer::Hogs(hogs) => Ok(hogs),
            other => unexpected(&other),
        }
    }
}

fn begin(herd: Herd) -> Request {
    let Herd { processes, mib, seed, content } = herd;
    Request::Hogs(HogsRequest::Start { processes, mib, pages: Pages::Base, seed, content })
}

/// The column "Used" of `/proc/swaps`: path, type, size, used, priority.
fn swap_used_kib(swaps: &str, device: &str) -> Option<u64> {
    let path = format!("/dev/{device}");
    let line = swaps.lines().find(|line| line.split_whitespace().next() == Some(&path))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_swap_area_of_a_device_is_found_among_others() {
        let swaps = "Filename Type Size Used Priority\n\
            /dev/nbd10 partition 8 4 -2\n/dev/nbd1                partition\t1048572\t\t20480\t\t-3\n";
        assert_eq!(swap_used_kib(swaps, "nbd1"), Some(20480));
        assert_eq!(swap_used_kib(swaps, "nbd2"), None);
    }
}
