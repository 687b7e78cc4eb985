//! How a guest gets at its swap, and who works for it.
//!
//! ```text
//!                guest ── virtio-net ──┐
//! over a TAP:               monitor ── TAP ── host's TCP ── qemu-nbd ── memory
//! inside (Aerostat):        monitor: TCP, NBD and memory of its own
//! ```
//! The benchmark, and whatever else swaps, knows only this: where the server is, which address the guest
//! gives itself, and whose CPU time counts.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::ensure;
use guest_agent::Link;

use crate::nbd_server::NbdServer;
use crate::subject::{Spec, Subject};
use crate::tap::Tap;
use crate::testvm::TestVm;
use crate::{echo, host};

/// The host, as the guest sees it. RFC 2544 keeps 198.18.0.0/15 for benchmarks: no other network has it.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const GUEST: &str = "198.18.0.2/24";
/// Aerostat's swap link (README).
const INSIDE: Ipv4Addr = Ipv4Addr::new(169, 254, 83, 1);
const GUEST_INSIDE: &str = "169.254.83.2/30";
/// NBD's port (IANA).
const PORT: u16 = 10809;
const EXPORT: &str = "swap";

/// What is sent there and back, and how often it is pinged, to see that the network is one.
const ECHO_BYTES: u64 = 8 << 20;
const PINGS: u32 = 50;
const PING_INTERVAL: Duration = Duration::from_millis(10);

/// A way to a swap server, for one guest.
#[derive(Debug)]
pub struct SwapLink(Way);

#[derive(Debug)]
enum Way {
    Tap(Tap, NbdServer),
    /// As `--swap` takes it.
    Inside(String),
}

/// What a network that works was seen to do.
#[derive(Clone, Debug)]
pub struct Network {
    /// The guest's interface.
    pub link: Link,
    /// Half of the pings took at most this.
    pub ping_p50: Duration,
    /// 8 MiB there and back, MB/s one way; nobody inside sends anything back.
    pub echo_mb_per_s: Option<f64>,
}

impl SwapLink {
    /// Readies so much swap on the host, in the way that is this monitor's own.
    ///
    /// # Errors
    /// The host cannot offer it.
    pub fn new(subject: Subject, mib: u64) -> anyhow::Result<Self> {
        match subject {
            Subject::Aerostat => Ok(Self::inside(format!("{mib}M"))),
            Subject::QemuPc | Subject::QemuMicrovm => Self::over_tap(mib),
        }
    }

    /// Swap as Aerostat's `--swap` says.
    #[must_use]
    pub fn inside(swap: String) -> Self {
        Self(Way::Inside(swap))
    }

    /// Readies so much swap in a server on the host, behind a TAP.
    ///
    /// # Errors
    /// The host cannot offer it.
    pub fn over_tap(mib: u64) -> anyhow::Result<Self> {
        let tap = Tap::create(&format!("{HOST}/24"))?;
        let server = NbdServer::qemu(SocketAddr::from((HOST, PORT)), EXPORT, mib)?;
        Ok(Self(Way::Tap(tap, server)))
    }

    /// The guest, with its end of the link.
    #[must_use]
    pub fn attach(&self, spec: Spec) -> Spec {
        match &self.0 {
            Way::Tap(tap, _) => spec.tap(tap.name()),
            Way::Inside(swap) => spec.argument("--swap").argument(swap),
        }
    }

    /// The host, as the guest sees it.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        match self.0 {
            Way::Tap(..) => HOST,
            Way::Inside(_) => INSIDE,
        }
    }

    /// Brings the guest's network up and sees that packets of all sizes come through.
    ///
    /// # Errors
    /// Something is lost or changed.
    pub fn check(&self, vm: &mut TestVm) -> anyhow::Result<Network> {
        let guest = if matches!(self.0, Way::Tap(..)) { GUEST } else { GUEST_INSIDE };
        let link = vm.agent.net_up(guest)?;
        let host = self.host().to_string();
        let pinged = vm.agent.net_ping(&host, PINGS, PING_INTERVAL, 1000)?;
        ensure!(pinged.received == PINGS && pinged.wrong == 0, "of {PINGS} pings: {pinged:?}");
        let ping_p50 = Duration::from_nanos(pinged.latency.p50_ns);
        if matches!(self.0, Way::Inside(_)) {
            return Ok(Network { link, ping_p50, echo_mb_per_s: None });
        }
        // More than one packet holds.
        let large = vm.agent.net_ping(&host, 5, PING_INTERVAL, 20_000)?;
        ensure!(large.received == 5 && large.wrong == 0, "of 5 large pings: {large:?}");
        let server = echo::serve(HOST.into())?.to_string();
        let echo_mb_per_s = Some(vm.agent.net_echo(&server, ECHO_BYTES, 1)?);
        Ok(Network { link, ping_p50, echo_mb_per_s })
    }

    /// Turns swap on over a number of connections; gives the device's name. The network must be up.
    ///
    /// # Errors
    /// The guest does not get at it.
    pub fn swap_on(&self, vm: &mut TestVm, connections: u32) -> anyhow::Result<String> {
        let device = vm.agent.nbd_connect(&format!("{}:{PORT}", self.host()), EXPORT, connections)?.device;
        vm.agent.swap_on(&device, true)?;
        Ok(device)
    }

    /// CPU time of all processes that the host runs for this guest, so far, without the guest's own.
    ///
    /// # Errors
    /// One has ended.
    pub fn cpu(&self, vm: &TestVm) -> anyhow::Result<Duration> {
        let monitor = host::cpu_times(vm.pid())?.host();
        match &self.0 {
            Way::Tap(_, server) => Ok(monitor + server.cpu()?),
            Way::Inside(_) => Ok(monitor),
        }
    }
}
