//! The network card on a real TAP, between a driver in memory and the host's network stack.
//!
//! A test starts itself again with a user and a network of its own, in which it is root and may make a TAP:
//! so it needs no privileges, and leaves nothing behind. It needs `/dev/net/tun` and `ip`.

mod reading;
mod start;

use std::env;
use std::io::Read;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::Tap;
use crate::devices::virtio::net::{HEADER, Header, Net, NetConfig, NetMetrics, Taps, feature};
use crate::devices::virtio::testing::{BUFFERS, Buf, Driver, V1};

const RX: usize = 0;
const TX: usize = 1;
const MERGED: u64 = 1 << feature::MRG_RXBUF;
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const INSIDE: &str = "AEROSTAT_TEST_NETWORK";
const OUT: u64 = BUFFERS + 0x20_0000;
/// Ethernet, IPv4 and UDP header.
const HEADERS: usize = 14 + 20 + 8;

const SETUP: &str = "\
    ip tuntap add tap0 mode tap && ip link set lo up && \
    ip link set tap0 address 02:00:00:00:00:01 addrgenmode none && \
    ip addr add 10.0.0.1/24 dev tap0 && ip link set tap0 up && \
    ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev tap0 && exec \"$@\"";

/// Whether this is the process with a network of its own; otherwise that process has run the test.
fn has_a_network(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let name = format!("{}::{test}", module_path!().split_once("::").expect("crate").1);
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", SETUP, "sh"])
        .arg(env::current_exe().expect("this program"))
        .args(["--exact", &name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare starts");
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "in a network of its own: {text}");
    false
}

struct Fixture {
    driver: Driver,
    host: UdpSocket,
    metrics: Arc<NetMetrics>,
}

fn started(features: u64) -> Fixture {
    let tap = Tap::open("tap0").expect("TAP");
    let host = UdpSocket::bind("10.0.0.1:7").expect("socket");
    host.connect("10.0.0.2:9").expect("connected");
    host.set_read_timeout(Some(Duration::from_secs(30))).expect("time-out");
    wait_for_carrier(&tap, &host);
    let net = Net::new(NetConfig { mac: GUEST_MAC, ..NetConfig::default() }, tap).expect("net");
    let metrics = Arc::clone(net.metrics());
    let driver = Driver::started(Arc::new(Mutex::new(net)), V1 | features, 2);
    Fixture { driver, host, metrics }
}

/// The kernel drops what is sent until it has noticed, some time after the TAP was opened, that there is a
/// carrier. Sends until something comes, and leaves nothing of it.
fn wait_for_carrier(tap: &Tap, host: &UdpSocket) {
    let mut bytes = [0; 2048];
    for _ in 0..1000 {
        host.send(b"is anybody there").expect("sent");
        thread::sleep(Duration::from_millis(30));
        if (&tap.file).read(&mut bytes).is_ok() {
            while (&tap.file).read(&mut bytes).is_ok() {}
            return;
        }
    }
    panic!("the TAP never got a carrier");
}

/// What a UDP frame holds; `None` for what the host says without being asked.
fn payload(frame: &[u8]) -> Option<&[u8]> {
    (frame[12..14] == [8, 0] && frame[23] == 17).then(|| &frame[HEADERS..])
}

/// The next UDP frame, with its header, out of buffers of `size` bytes.
fn receive(driver: &mut Driver, size: u32) -> (Header, Vec<u8>) {
    loop {
        let used = driver.used(RX);
        if used.is_empty() {
            driver.wait();
            continue;
        }
        let at = |head: u32| BUFFERS + u64::from(head * size);
        let bytes: Vec<u8> =
            used.iter().flat_map(|&(head, len)| driver.bytes(at(head), len as usize)).collect();
        let (header, frame) = bytes.split_first_chunk::<HEADER>().expect("header");
        if payload(frame).is_some() {
            assert_eq!(usize::from(header[10]), used.len(), "num_buffers");
            return (Header::parse(*header).expect("header"), frame.to_vec());
        }
    }
}

/// Sum of 16-bit words in ones' complement (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| low.into()));
    let sum: u32 = words.sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// A UDP frame of the guest whose checksum the host has to complete.
fn datagram(data: &[u8]) -> (Header, Vec<u8>) {
    let udp = (8 + data.len()) as u16;
    let mut ip =
        [&[0x45, 0][..], &(20 + udp).to_be_bytes(), &[0, 0, 0, 0, 64, 17, 0, 0], &[10, 0, 0, 2]].concat();
    ip.extend([10, 0, 0, 1]);
    let checksum = !sum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let pseudo = [&ip[12..], &[0, 17], &udp.to_be_bytes()].concat();
    let frame = [
        &HOST_MAC[..],
        &GUEST_MAC,
        &[8, 0],
        &ip,
        &[0, 9, 0, 7],
        &udp.to_be_bytes(),
        &sum(&pseudo).to_be_bytes(),
        data,
    ];
    let header = Header { needs_csum: true, csum_start: 34, csum_offset: 6, ..Header::default() };
    (header, frame.concat())
}

#[test]
fn frames_go_both_ways_between_guest_and_host() {
    if !has_a_network("frames_go_both_ways_between_guest_and_host") {
        return;
    }
    let all = MERGED | feature::OFFLOADS;
    let Fixture { mut driver, host, metrics } = started(all);
    // Buffers of 5000 bytes: the ring holds more than the largest frame.
    for i in 0..14 {
        driver.add(RX, &[Buf::In(BUFFERS + 5000 * i, 5000)]);
    }
    driver.kick(RX);
    host.send(b"to the guest").expect("sent");
    let (header, frame) = receive(&mut driver, 5000);
    assert_eq!(payload(&frame), Some(&b"to the guest"[..]));
    assert_eq!(
        (frame[..6].to_vec(), header.needs_csum),
        (GUEST_MAC.to_vec(), true),
        "the checksum is left to us"
    );

    let (header, frame) = datagram(b"to the host");
    driver.put(OUT, &header.bytes(0));
    driver.put(OUT + 100, &frame);
    driver
        .add(TX, &[Buf::Out(OUT, 12), Buf::Out(OUT + 100, 30), Buf::Out(OUT + 130, frame.len() as u32 - 30)]);
    driver.kick(TX);
    let mut bytes = [0; 64];
    let len = host.recv(&mut bytes).expect("received");
    assert_eq!(&bytes[..len], b"to the host");
    assert_eq!(metrics.tx_packets.get(), 1);

    driver.set(0x70, 0);
    driver.start(V1 | MERGED, 2);
    for i in 0..14 {
        driver.add(RX, &[Buf::In(BUFFERS + 5000 * i, 5000)]);
    }
    driver.kick(RX);
    host.send(b"once more").expect("sent");
    let (header, frame) = receive(&mut driver, 5000);
    assert_eq!(
        (header, payload(&frame)),
        (Header::default(), Some(&b"once more"[..])),
        "no offload was agreed upon"
    );
    assert_eq!(metrics.rx_host_errors.get(), 0);
}

/// What the host left to a driver that could do it is not for the next one, which cannot.
#[test]
fn a_driver_gets_nothing_that_came_for_the_one_before() {
    if !has_a_network("a_driver_gets_nothing_that_came_for_the_one_before") {
        return;
    }
    let Fixture { mut driver, host, metrics } = started(MERGED | feature::OFFLOADS);
    driver.add(RX, &[Buf::In(BUFFERS, 250)]);
    driver.kick(RX);
    for number in 0..100u8 {
        host.send(&[number; 500]).expect("sent");
    }
    driver.run();
    driver.set(0x70, 0);
    driver.start(V1 | MERGED, 2);
    for i in 0..14 {
        driver.add(RX, &[Buf::In(BUFFERS + 5000 * i, 5000)]);
    }
    driver.kick(RX);
    host.send(b"for the second").expect("sent");
    let (header, frame) = receive(&mut driver, 5000);
    assert_eq!((header, payload(&frame)), (Header::default(), Some(&b"for the second"[..])));
    assert_eq!(metrics.rx_host_errors.get(), 0, "nor was any of it refused");
}

#[test]
fn a_frame_for_which_there_is_little_room_waits_or_is_dropped() {
    if !has_a_network("a_frame_for_which_there_is_little_room_waits_or_is_dropped") {
        return;
    }
    let Fixture { mut driver, host, metrics } = started(MERGED);
    let long = [7; 1000];
    host.send(&long).expect("sent");
    host.send(b"the second").expect("sent");
    driver.run();
    assert_eq!(driver.used(RX), [], "the guest gave no buffers");
    for i in 0..5 {
        driver.add(RX, &[Buf::In(BUFFERS + 250 * i, 250)]);
        driver.kick(RX);
    }
    assert_eq!(payload(&receive(&mut driver, 250).1), Some(&long[..]), "five buffers make room");
    driver.add(RX, &[Buf::In(BUFFERS + 250 * 5, 250)]);
    driver.kick(RX);
    assert_eq!(payload(&receive(&mut driver, 250).1), Some(&b"the second"[..]));

    // Without merged buffers the long one goes nowhere.
    driver.set(0x70, 0);
    driver.start(V1, 2);
    driver.add(RX, &[Buf::In(BUFFERS, 250)]);
    driver.kick(RX);
    host.send(&long).expect("sent");
    host.send(b"the fourth").expect("sent");
    assert_eq!(payload(&receive(&mut driver, 250).1), Some(&b"the fourth"[..]));
    assert_eq!(metrics.rx_dropped_too_large.get(), 1);
}

#[test]
fn an_interface_that_cannot_be_used_is_refused_in_one_sentence() {
    if !has_a_network("an_interface_that_cannot_be_used_is_refused_in_one_sentence") {
        return;
    }
    let refused = |name: &str| Tap::open(name).expect_err(name).to_string();
    assert!(refused("lo").starts_with("lo is no TAP interface of one queue"));
    for name in ["", "a b", "a/b", "..", "tap%d", "abcdefghijklmnop"] {
        assert!(refused(name).contains("is no name of a network interface"), "{name}");
    }
    let first = Tap::open("tap0").expect("TAP");
    assert!(refused("tap0").contains("is in use by another process"));
    drop(first);
    Tap::open("tap0").expect("it is free again");

    // Without the right to administer the network, which root has here until now.
    let none =
        CapabilitySets { effective: CapabilitySet::empty(), ..capabilities(None).expect("capabilities") };
    set_capabilities(None, none).expect("given up");
    assert!(
        refused("tap1").starts_with("The network interface tap1 does not exist, and who runs Aerostat may")
    );
}

#[test]
fn an_interface_that_is_absent_is_there_while_it_is_held() {
    if !has_a_network("an_interface_that_is_absent_is_there_while_it_is_held") {
        return;
    }
    // Its number; `None` where it is not there.
    let look = |name: &str| {
        let said = Command::new("ip").args(["-o", "link", "show", name]).output().expect("ip");
        let number = String::from_utf8_lossy(&said.stdout).split(':').next().map(str::to_owned);
        number.filter(|_| said.status.success())
    };
    let mut taps = Taps::default();
    for _ in 0..2 {
        taps.hold("tap1").expect("made, and kept");
        taps.hold("tap0").expect("attached");
        assert!(look("tap1").is_some());
    }
    taps.retain(|name| name == "tap1");
    Tap::open("tap0").expect("it is free again");
    let held = look("tap1");
    for _ in 0..2 {
        let card = taps.lend("tap1").expect("the one that is held");
        assert_eq!(look("tap1"), held, "no new one");
        drop(card);
        assert_eq!(look("tap1"), held, "a start that fails takes nothing away");
    }
    let card = taps.lend("tap1").expect("the one that is held");
    drop(taps);
    assert_eq!(look("tap1"), held, "the card has it");
    drop(card);
    assert_eq!(look("tap1"), None, "it went with the card");
    assert!(look("tap0").is_some(), "this one did not");
}
