//! A guest's way to its swap, and the process that serves it.
//!
//! ```text
//!                guest ── virtio-net ──┐
//! over a TAP:               monitor ── TAP ── host's TCP ── qemu-nbd ── memory
//! inside (Aerostat):        monitor: TCP, NBD and memory of its own
//!                guest ── virtio-blk ─┐
//! as a disk (Aerostat):     monitor: memory of its own
//! ```
//! The benchmark, and whatever else swaps, knows only this: where the server is, which address the guest
//! gives itself, and whose CPU time counts.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{bail, ensure};
use guest_agent::Link;

use crate::nbd_server::NbdServer;
use crate::subject::{Spec, Subject};
use crate::tap::Tap;
use crate::testvm::TestVm;
use crate::{echo, host};

/// The host, as the guest sees it. RFC 2544 keeps 198.18.0.0/15 for benchmarks: no other network has it.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const GUEST: &str = "198.18.0.2/24";
/// Aerostat's swap link (docs/swap.md).
const INSIDE: Ipv4Addr = Ipv4Addr::new(169, 254, 83, 1);
const GUEST_INSIDE: &str = "169.254.83.2/30";
/// NBD's port (IANA).
const PORT: u16 = 10809;
const EXPORT: &str = "swap";
/// What Aerostat's swap is called as a disk (README).
const SERIAL: &str = "aerostat-swap";

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
    /// The same.
    Disk(String),
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

    /// The same, of which the guest sees a disk.
    #[must_use]
    pub fn disk(swap: &str) -> Self {
        Self(Way::Disk(format!("{swap},front=blk")))
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
            Way::Inside(swap) | Way::Disk(swap) => spec.argument("--swap").argument(swap),
        }
    }

    /// The host, as the guest sees it, if there is a network for that.
    #[must_use]
    pub fn host(&self) -> Option<Ipv4Addr> {
        match self.0 {
            Way::Tap(..) => Some(HOST),
            Way::Inside(_) => Some(INSIDE),
            Way::Disk(_) => None,
        }
    }

    /// Brings the guest's network up, if it needs one, and sees that packets of all sizes come through.
    ///
    /// # Errors
    /// Something is lost or changed.
    pub fn check(&self, vm: &mut TestVm) -> anyhow::Result<Option<Network>> {
        let Some(host) = self.host().map(|host| host.to_string()) else { return Ok(None) };
        let guest = if matches!(self.0, Way::Tap(..)) { GUEST } else { GUEST_INSIDE };
        let link = vm.agent.net_up(guest)?;
        let pinged = vm.agent.net_ping(&host, PINGS, PING_INTERVAL, 1000)?;
        ensure!(pinged.received == PINGS && pinged.wrong == 0, "of {PINGS} pings: {pinged:?}");
        let ping_p50 = Duration::from_nanos(pinged.latency.p50_ns);
        if matches!(self.0, Way::Inside(_)) {
            return Ok(Some(Network { link, ping_p50, echo_mb_per_s: None }));
        }
        // More than one packet holds.
        let large = vm.agent.net_ping(&host, 5, PING_INTERVAL, 20_000)?;
        ensure!(large.received == 5 && large.wrong == 0, "of 5 large pings: {large:?}");
        let server = echo::serve(HOST.into())?.to_string();
        let echo_mb_per_s = Some(vm.agent.net_echo(&server, ECHO_BYTES, 1)?);
        Ok(Some(Network { link, ping_p50, echo_mb_per_s }))
    }

    /// Turns swap on, over a network with a number of connections; gives the device's name. The network must be up.
    ///
    /// # Errors
    /// The guest does not get at it.
    pub fn swap_on(&self, vm: &mut TestVm, connections: u32) -> anyhow::Result<String> {
        let device = match self.host() {
            Some(host) => vm.agent.nbd_connect(&format!("{host}:{PORT}"), EXPORT, connections)?.device,
            None => disk(vm)?,
        };
        vm.agent.swap_on(&device, true)?;
        Ok(device)
    }

    /// Turns swap off and lets go of the device.
    ///
    /// # Errors
    /// The guest does not.
    pub fn swap_off(&self, vm: &mut TestVm, device: &str) -> anyhow::Result<()> {
        vm.agent.swap_off(device)?;
        if self.host().is_some() { vm.agent.nbd_disconnect(device) } else { Ok(()) }
    }

    /// CPU time of all processes that the host runs for this guest, so far, without the guest's own.
    ///
    /// # Errors
    /// One has ended.
    pub fn cpu(&self, vm: &TestVm) -> anyhow::Result<Duration> {
        let monitor = host::cpu_times(vm.pid())?.host();
        match &self.0 {
            Way::Tap(_, server) => Ok(monitor + server.cpu()?),
            Way::Inside(_) | Way::Disk(_) => Ok(monitor),
        }
    }
}

/// The disk that says that it is Aerostat's swap.
fn disk(vm: &mut TestVm) -> anyhow::Result<String> {
    for block in vm.agent.disks()? {
        let serial = vm.agent.read_file(&format!("/sys/block/{}/serial", block.name));
        if serial.is_ok_and(|serial| serial.trim() == SERIAL) {
            return Ok(block.name);
        }
    }
    bail!("no disk of the guest has the serial number {SERIAL}")
}
