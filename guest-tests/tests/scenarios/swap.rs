//! A guest reaches its host over the network, and swaps to it.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, ensure};
use guest_tests::agent_client::Herd;
use guest_tests::{Content, Flood, SwapLink, swap_link};
use libtest_mimic::Trial;

use crate::{guest, peers};

const SWAP_MIB: u64 = 256;
/// A guest whose kernel leaves some 80 MiB, and processes that want more.
const SMALL_MIB: u64 = 128;
const HERD: Herd = Herd { processes: 2, mib: 52, seed: 7, content: Content { zero_percent: 10, ratio: 3 } };
const PATIENCE: Duration = Duration::from_secs(300);
/// `VIRTIO_NET_F_MAC` (virtio 1.3, 5.1.3): Linux takes it wherever it is offered, and all offer it.
const HAS_MAC: u32 = 5;

pub(crate) fn trials() -> Vec<Trial> {
    [
        peers("swap::the_network_brings_pings_and_transfers_through_a_flood", network),
        peers("swap::what_exceeds_memory_comes_back_from_the_network_right", exceeds),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn network() -> anyhow::Result<()> {
    let link = SwapLink::new(SWAP_MIB)?;
    link.attach(guest()?).run(|vm| {
        let network = link.check(vm)?;
        ensure!(network.link.mtu == 1500, "the MTU is {}", network.link.mtu);
        ensure!(network.link.features.contains(&HAS_MAC), "features {:?}", network.link.features);

        let host: Ipv4Addr = swap_link::HOST;
        vm.agent.flood_start(Flood::Icmp(host.to_string()), 1000)?;
        vm.agent.flood_start(Flood::Udp(format!("{host}:9")), 1000)?;
        sleep(Duration::from_secs(1));
        let flooded = vm.agent.flood_stop()?;
        ensure!(flooded.packets > 100, "a flood of {} packets in a second", flooded.packets);
        link.check(vm).context("after the flood")?;
        Ok(())
    })
}

fn exceeds() -> anyhow::Result<()> {
    let link = SwapLink::new(SWAP_MIB)?;
    link.attach(guest()?.memory_mib(SMALL_MIB)).run(|vm| {
        link.check(vm)?;
        let device = link.swap_on(vm, 2)?;
        ensure!(vm.agent.swap_used_mib(&device)? == Some(0), "swap is in use before anybody needs it");
        vm.agent.hogs_start(HERD, PATIENCE)?;
        vm.agent.hogs_read()?;
        let hogs = vm.agent.hogs_until(PATIENCE, |hogs| hogs.passes > 0)?;
        ensure!(hogs.verified >= HERD.pages() && hogs.page_in.count > 0, "{hogs:?}");
        ensure!(vm.agent.swap_used_mib(&device)? > Some(0), "nothing was swapped");
        let traffic = vm.agent.swap_traffic()?;
        ensure!(traffic.pages_in > 0 && traffic.pages_out > 0, "{traffic:?}");
        vm.agent.hogs_stop()?;

        vm.agent.swap_off(&device)?;
        ensure!(vm.agent.swap_used_mib(&device)?.is_none(), "swap is still on");
        vm.agent.nbd_disconnect(&device)
    })
}
