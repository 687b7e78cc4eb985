//! A guest reaches its host over the network, and swaps to it.

mod exhaustion;
mod together;

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use guest_tests::agent_client::Herd;
use guest_tests::nbd_server::{NbdServer, Program};
use guest_tests::swap_link::Network;
use guest_tests::{Content, Flood, Spec, Subject, SwapLink, TestVm};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{guest, of_devices, ours, scenario};

const SWAP_MIB: u64 = 256;
/// A guest whose kernel leaves some 80 MiB, and processes that want more.
const SMALL_MIB: u64 = 128;
const HERD: Herd = Herd { processes: 2, mib: 40, seed: 7, content: Content { zero_percent: 10, ratio: 3 } };
const PATIENCE: Duration = Duration::from_secs(300);
/// What all offer and Linux takes (virtio 1.3, 5.1.3): `VIRTIO_NET_F_CSUM`, `GUEST_CSUM`, `MAC`, `GUEST_TSO4`, `HOST_TSO4`,
/// `MRG_RXBUF`.
const FEATURES: [u32; 6] = [0, 1, 5, 7, 11, 15];
/// Of the swap link.
const MTU: u32 = 9000;

/// Random data, of which more is swapped than the memory holds that swap may have.
const LARGE_HERD: Herd =
    Herd { processes: 2, mib: 20, seed: 7, content: Content { zero_percent: 0, ratio: 1 } };
/// Hardly more than the kernel wants to boot: an emulated host takes a millisecond for each page of a server.
const TINY_MIB: u64 = 80;
/// The server below the swap.
const BELOW: (Program, u64) = (Program::QemuNbd, SWAP_MIB);

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        scenario("swap::the_network_brings_pings_and_transfers_through_a_flood", network),
        scenario("swap::what_exceeds_memory_comes_back_right", exceeds),
    ];
    trials.extend(ours("swap::a_kernel_without_nbd_swaps_to_a_disk", without_nbd));
    trials.extend(ours("swap::a_server_below_is_killed_and_then_the_guest_resets", below));
    trials.extend(ours("swap::a_server_that_stays_away_costs_what_is_on_it_and_nothing_else", away));
    trials.extend(exhaustion::trials());
    trials.extend(together::trials());
    trials
}

fn network() -> anyhow::Result<()> {
    let link = SwapLink::over_tap(SWAP_MIB)?;
    link.attach(guest()?).run(|vm| {
        let network = link.check(vm)?.context("no network")?;
        ensure_negotiated(&network, 1500)?;

        let host = link.host().context("no network")?;
        vm.agent.flood_start(Flood::Icmp(host.to_string()), 1000)?;
        vm.agent.flood_start(Flood::Udp(format!("{host}:9")), 1000)?;
        sleep(Duration::from_secs(1));
        let flooded = vm.agent.flood_stop()?;
        ensure!(flooded.packets.iter().all(|packets| *packets > 50), "in a second {flooded:?}");
        link.check(vm).context("after the flood")?;
        if Subject::from_environment() == Subject::Aerostat {
            hold_back(vm, host)?;
            link.check(vm).context("after the limit")?;
        }
        Ok(())
    })
}

fn ensure_negotiated(network: &Network, mtu: u32) -> anyhow::Result<()> {
    let (seen, features) = (network.link.mtu, &network.link.features);
    ensure!(seen == mtu, "the MTU is {seen}");
    ensure!(FEATURES.iter().all(|feature| features.contains(feature)), "features {features:?}");
    Ok(())
}

/// A limit that comes while the guest runs holds back what it sends, until it is lifted.
fn hold_back(vm: &mut TestVm, host: Ipv4Addr) -> anyhow::Result<()> {
    let limited =
        |vm: &TestVm| Ok::<_, anyhow::Error>(of_devices(vm, "tx_rate_limited")?.iter().sum::<u64>());
    let limit = |vm: &TestVm, ops: u64| {
        let bucket = json!({"size": ops, "refill_time": 1000});
        let body = json!({"iface_id": "net0", "tx_rate_limiter": {"ops": bucket}});
        vm.control.api("PATCH", "/network-interfaces/net0", body)
    };
    ensure!(limited(vm)? == 0, "held back without a limit");
    limit(vm, 2)?;
    vm.agent.flood_start(Flood::Udp(format!("{host}:9")), 100)?;
    sleep(Duration::from_secs(1));
    vm.agent.flood_stop()?;
    ensure!(limited(vm)? > 0, "nothing was held back");
    limit(vm, 0).map(drop)
}

fn exceeds() -> anyhow::Result<()> {
    let subject = Subject::from_environment();
    let link = SwapLink::new(subject, SWAP_MIB)?;
    link.attach(guest()?.memory_mib(SMALL_MIB)).run(|vm| {
        let network = link.check(vm)?.context("no network")?;
        if subject == Subject::Aerostat {
            ensure_negotiated(&network, MTU)?;
        }
        exceeds_over(&link, vm, 2)
    })
}

/// The kernel would not load the module if it had it; and there is no network.
fn without_nbd() -> anyhow::Result<()> {
    let link = SwapLink::disk(&format!("{SWAP_MIB}M"));
    link.attach(guest()?.memory_mib(SMALL_MIB).append("module_blacklist=nbd")).run(|vm| {
        ensure!(vm.agent.nbd_connect("127.0.0.1:10809", "swap", 1).is_err(), "the guest has NBD");
        exceeds_over(&link, vm, 1)?;
        let told = Told::by(vm)?;
        told.ensure_some(&["/disk/reads", "/disk/writes", "/disk/discards"])?;
        told.ensure_none(&["/disk/bad_requests", "/disk/refused", "/disk/unsupported", "/disk/host_errors"])
    })
}

/// A guest that needs more than its memory swaps, and has what it had.
fn exceeds_over(link: &SwapLink, vm: &mut TestVm, connections: u32) -> anyhow::Result<()> {
    let device = link.swap_on(vm, connections)?;
    ensure!(vm.agent.swap_used_mib(&device)? == Some(0), "swap is in use before anybody needs it");
    vm.agent.hogs_start(HERD, PATIENCE)?;
    vm.agent.hogs_read()?;
    let hogs = vm.agent.hogs_until(PATIENCE, |hogs| hogs.passes > 0)?;
    ensure!(hogs.verified >= HERD.pages() && hogs.page_in.count > 0, "{hogs:?}");
    ensure!(vm.agent.swap_used_mib(&device)? > Some(0), "nothing was swapped");
    let traffic = vm.agent.swap_traffic()?;
    ensure!(traffic.pages_in > 0 && traffic.pages_out > 0, "{traffic:?}");
    if Subject::from_environment() == Subject::Aerostat {
        ensure_told(vm, u64::from(connections), traffic.pages_out)?;
    }
    vm.agent.hogs_stop()?;

    link.swap_off(vm, &device)?;
    ensure!(vm.agent.swap_used_mib(&device)?.is_none(), "swap is still on");
    Ok(())
}

/// A guest that swaps more than memory may hold: the rest is on a server, which may be away for so many seconds.
fn with_tier(server: &NbdServer, timeout: u32) -> anyhow::Result<(SwapLink, Spec)> {
    let link = SwapLink::inside(format!("{SWAP_MIB}M,memory=16M,tier={},timeout={timeout}", server.uri()));
    let spec = link.attach(guest()?.memory_mib(TINY_MIB));
    Ok((link, spec))
}

/// Turns swap on, and has it filled by hogs that go on reading and verifying.
fn overflow(link: &SwapLink, vm: &mut TestVm) -> anyhow::Result<()> {
    link.check(vm)?;
    link.swap_on(vm, 2)?;
    vm.agent.hogs_start(LARGE_HERD, PATIENCE)?;
    Told::by(vm)?.ensure_some(&["/store/tiers/0/pages_written"])?;
    vm.agent.hogs_read()
}

/// What the host says of the guest's swap.
struct Told(Value);

impl Told {
    fn by(vm: &TestVm) -> anyhow::Result<Self> {
        Ok(Self(vm.control.api("GET", "/swap", Value::Null)?))
    }

    fn number(&self, path: &str) -> anyhow::Result<u64> {
        self.0.pointer(path).and_then(Value::as_u64).with_context(|| format!("{path}: {}", self.0))
    }

    fn ensure_some(&self, paths: &[&str]) -> anyhow::Result<()> {
        for path in paths {
            ensure!(self.number(path)? > 0, "{path}: {}", self.0);
        }
        Ok(())
    }

    fn ensure_none(&self, paths: &[&str]) -> anyhow::Result<()> {
        for path in paths {
            ensure!(self.number(path)? == 0, "{path}: {}", self.0);
        }
        Ok(())
    }
}

fn below() -> anyhow::Result<()> {
    let mut server = NbdServer::on_socket(BELOW.0, BELOW.1)?;
    let (link, spec) = with_tier(&server, 3600)?;
    let mut vm = spec.start()?;
    overflow(&link, &mut vm)?;
    server.kill()?;
    sleep(Duration::from_secs(1));
    let _server = server.start_again(BELOW.0, BELOW.1)?;
    // The rest of a pass at the least is read since.
    let passes = vm.agent.hogs_status()?.passes;
    let hogs = vm.agent.hogs_until(PATIENCE, |hogs| hogs.passes > passes)?;
    ensure!(hogs.verified >= LARGE_HERD.pages() && hogs.page_in.count > 0, "{hogs:?}");
    let told = Told::by(&vm)?;
    told.ensure_some(&[
        "/store/tiers/0/pages_read",
        "/store/tiers/0/remote/lost",
        "/store/tiers/0/remote/reconnects",
    ])?;
    told.ensure_none(&[
        "/store/lost",
        "/store/corrupt",
        "/store/no_room",
        "/nbd/errors",
        "/store/tiers/0/timeouts",
    ])?;

    // In the middle of writing, with pages on their way to the host and to the server: nobody waits for what is left.
    vm.agent.hogs_stop()?;
    vm.agent.hogs_begin(LARGE_HERD)?;
    until_swapping_out(&mut vm)?;
    vm.agent.reboot()?;
    let status = vm.wait_exit()?;
    ensure!(status.success(), "the monitor ended with {status}:\n{}", vm.transcript());
    Ok(())
}

/// Until hogs have written so much that the guest swaps out, and have not written all.
fn until_swapping_out(vm: &mut TestVm) -> anyhow::Result<()> {
    const PAGES: u64 = 1000;
    let written = |vm: &TestVm| Told::by(vm)?.number("/nbd/pages_written");
    let (start, before) = (Instant::now(), written(vm)?);
    while written(vm)? < before + PAGES {
        ensure!(start.elapsed() < PATIENCE, "nothing is swapped out");
        sleep(Duration::from_millis(50));
    }
    let hogs = vm.agent.hogs_status()?;
    ensure!(hogs.ready < LARGE_HERD.processes, "all is written: {hogs:?}");
    Ok(())
}

/// Who reads what is on a server that stays away gets an I/O error, of which Linux makes a SIGBUS, once the stated time is
/// over. The guest goes on without it, and swaps again when the server is back.
fn away() -> anyhow::Result<()> {
    const TIMEOUT: u32 = 3;
    let mut server = NbdServer::on_socket(BELOW.0, BELOW.1)?;
    let (link, spec) = with_tier(&server, TIMEOUT)?;
    spec.run(|vm| {
        overflow(&link, vm)?;
        server.kill()?;
        // What was asked just before may be a little older.
        let (start, least) = (Instant::now(), Duration::from_millis(u64::from(TIMEOUT) * 900));
        while Told::by(vm)?.number("/nbd/errors")? == 0 {
            ensure!(start.elapsed() < PATIENCE, "nothing fails");
            sleep(Duration::from_millis(20));
        }
        ensure!(start.elapsed() >= least, "reads failed {:?} after the server had gone", start.elapsed());
        // Each reads all its pages, and so comes to one that is there.
        loop {
            let hogs = vm.agent.hogs_within(PATIENCE)?.context("the guest does not answer")?;
            ensure!(hogs.wrong == 0, "{hogs:?}");
            if hogs.lost == LARGE_HERD.processes {
                break;
            }
            ensure!(start.elapsed() < PATIENCE, "they wait on: {hogs:?}");
            sleep(Duration::from_secs(1));
        }
        let told = Told::by(vm)?;
        told.ensure_some(&["/nbd/errors", "/store/tiers/0/timeouts"])?;
        told.ensure_none(&["/store/lost", "/store/corrupt"])?;
        // It says that they were killed, as it has to.
        ensure!(vm.agent.hogs_stop().is_err());
        link.check(vm).context("while the server is away")?;

        let _server = server.start_again(BELOW.0, BELOW.1)?;
        let start = Instant::now();
        while Told::by(vm)?.number("/store/tiers/0/remote/reconnects")? == 0 {
            ensure!(start.elapsed() < PATIENCE, "the server is not found back");
            sleep(Duration::from_millis(100));
        }
        vm.agent.hogs_start(LARGE_HERD, PATIENCE)?;
        vm.agent.hogs_read()?;
        let hogs = vm.agent.hogs_until(PATIENCE, |hogs| hogs.passes > 0)?;
        ensure!(hogs.verified >= LARGE_HERD.pages() && hogs.page_in.count > 0, "{hogs:?}");
        Told::by(vm)?.ensure_none(&["/store/lost", "/store/corrupt"])?;
        vm.agent.hogs_stop().map(drop)
    })
}

/// What the host says of the guest's swap is what the guest did.
fn ensure_told(vm: &TestVm, connections: u64, pages_out: u64) -> anyhow::Result<()> {
    let told = Told::by(vm)?;
    ensure!(told.number("/nbd/connections")? >= connections, "{}", told.0);
    ensure!(told.number("/nbd/pages_written")? >= pages_out, "{}", told.0);
    let (stored, bytes) = (told.number("/store/stored_pages")?, told.number("/store/stored_bytes")?);
    ensure!(bytes < stored * 4096 / 2, "pages that compress 3:1 are not packed: {}", told.0);
    told.ensure_some(&["/nbd/pages_read", "/store/stored_pages"])?;
    told.ensure_none(&["/store/lost", "/store/no_room", "/nbd/errors", "/nbd/refused", "/nbd/malformed"])
}
