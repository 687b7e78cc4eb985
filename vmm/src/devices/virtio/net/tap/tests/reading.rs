//! Reading of a TAP, byte by byte: a socket, or a pipe, stands in for it.

use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use super::super::{MAX_FAILURES, Tap};
use crate::devices::virtio::net::{
    HEADER, Header, Inbox, MAX_FRAME, Net, NetBackend, NetConfig, NetMetrics, Outgoing, Transmitted, feature,
};
use crate::devices::virtio::testing::{BUFFERS, Buf, Driver, V1};

const RX: usize = 0;
const MERGED: u64 = 1 << feature::MRG_RXBUF;

/// A TAP on something that knows nothing of offloads.
struct StandIn(Tap);

impl NetBackend for StandIn {
    fn features(&self) -> u64 {
        feature::OFFLOADS
    }
    fn set_offloads(&mut self, features: u64) -> io::Result<()> {
        self.0.offloads = features;
        Ok(())
    }
    fn transmit(&mut self, frame: &Outgoing<'_>, inbox: &mut Inbox<'_>) -> Transmitted {
        self.0.transmit(frame, inbox)
    }
    fn receive(&mut self, inbox: &mut Inbox<'_>) {
        self.0.receive(inbox);
    }
    fn events(&self) -> Vec<RawFd> {
        self.0.events()
    }
    fn reset(&mut self) {}
}

fn started(file: impl Into<OwnedFd>, features: u64) -> (Driver, Arc<NetMetrics>) {
    let file = File::from(file.into());
    let tap = Tap { file, spare: Box::new([0; HEADER + MAX_FRAME]), waiting: None, offloads: 0 };
    let net = Net::new(NetConfig::default(), StandIn(tap)).expect("net");
    let metrics = Arc::clone(net.metrics());
    (Driver::started(Arc::new(Mutex::new(net)), V1 | MERGED | features, 2), metrics)
}

/// Sizes of 14 buffers: those that leave room for the largest frame, which are read into, and those that do not.
const ROOMY_AND_NOT: [u32; 2] = [5000, 1000];

/// The frames that are there, each in one buffer.
fn received(driver: &mut Driver, size: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
    let used = driver.used(RX);
    let at = |head| BUFFERS + u64::from(head * size);
    let frame = |(head, len): (u32, u32)| {
        let mut header = driver.bytes(at(head), len as usize);
        let frame = header.split_off(HEADER);
        (header, frame)
    };
    used.into_iter().map(frame).collect()
}

fn offer(driver: &mut Driver, size: u32) {
    for i in 0..14 {
        driver.add(RX, &[Buf::In(BUFFERS + u64::from(size * i), size)]);
    }
    // One turn, whatever else is waiting.
    driver.set(0x50, RX as u32);
    driver.turn();
}

/// What the host's kernel says beyond what was agreed upon (that a checksum is right, that segments were merged) does
/// not reach the driver, wherever the frame is read to.
#[test]
fn the_header_is_cleared_of_what_was_not_offered() {
    for size in ROOMY_AND_NOT {
        let (tap, host) = UnixDatagram::pair().expect("sockets");
        tap.set_nonblocking(true).expect("socket");
        let (mut driver, metrics) = started(tap, 0);
        driver.run();
        let mut header = [0; HEADER];
        // DATA_VALID and RSC_INFO, and a count of buffers that is the device's to fill in.
        (header[0], header[10], header[11]) = (6, 9, 9);
        host.send(&[&header[..], &[7; 100]].concat()).expect("sent");
        offer(&mut driver, size);
        assert_eq!(received(&mut driver, size), [(Header::default().bytes(1).to_vec(), vec![7; 100])]);
        assert_eq!(metrics.rx_host_errors.get(), 0);
    }
}

#[test]
fn a_frame_that_is_none_leaves_those_behind_it() {
    let needs_csum = Header { needs_csum: true, csum_start: 34, csum_offset: 6, ..Header::default() };
    let mut unknown = Header::default().bytes(0);
    unknown[1] = 0x7f;
    for size in ROOMY_AND_NOT {
        let (tap, host) = UnixDatagram::pair().expect("sockets");
        tap.set_nonblocking(true).expect("socket");
        let (mut driver, metrics) = started(tap, 0);
        driver.run();
        let whole = |header: [u8; HEADER]| [&header[..], &[7; 100]].concat();
        let bad = [vec![0; 5], vec![0; HEADER + 13], whole(unknown), whole(needs_csum.bytes(0))];
        for frame in &bad {
            host.send(frame).expect("sent");
        }
        host.send(&whole(Header::default().bytes(0))).expect("sent");
        offer(&mut driver, size);
        assert_eq!(received(&mut driver, size).len(), 1, "in the same turn, with buffers of {size}");
        assert_eq!(metrics.rx_host_errors.get(), bad.len() as u64);
    }
}

#[test]
fn what_the_driver_took_upon_itself_is_left_to_it() {
    for size in ROOMY_AND_NOT {
        let (tap, host) = UnixDatagram::pair().expect("sockets");
        tap.set_nonblocking(true).expect("socket");
        let (mut driver, _) = started(tap, 1 << feature::GUEST_CSUM);
        driver.run();
        let header = Header { needs_csum: true, csum_start: 34, csum_offset: 6, ..Header::default() };
        host.send(&[&header.bytes(0)[..], &[7; 100]].concat()).expect("sent");
        offer(&mut driver, size);
        assert_eq!(received(&mut driver, size), [(header.bytes(1).to_vec(), vec![7; 100])]);
    }
}

/// An interface that is gone fails for ever: the device does not try for as long.
#[test]
fn reads_that_always_fail_come_to_an_end() {
    let (closed, _) = io::pipe().expect("pipe");
    let (mut driver, metrics) = started(closed, 0);
    driver.run();
    let before = metrics.rx_host_errors.get();
    offer(&mut driver, ROOMY_AND_NOT[0]);
    assert_eq!(metrics.rx_host_errors.get() - before, u64::from(MAX_FAILURES));
    driver.run();
}
