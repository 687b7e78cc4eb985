//! The network card against a driver in memory and a back end that writes down what it gets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::fake::Fake;
use super::{Gso, HEADER, Header, MAX_FRAME, Net, NetConfig, NetMetrics, Transmitted, feature};
use crate::devices::virtio::rate::{Limit, Limits};
use crate::devices::virtio::testing::{BUFFERS, Buf, Driver, RAM, SIZE, V1, rings};
use crate::devices::virtio::{VirtioDevice, lock};

const RX: usize = 0;
const TX: usize = 1;
const MERGED: u64 = 1 << feature::MRG_RXBUF;
const EVENT_IDX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;
const MAC: [u8; 6] = [2, 0xaa, 1, 2, 3, 4];
/// Where frames to be sent are written.
const OUT: u64 = BUFFERS + 0x20_0000;

struct Fixture {
    driver: Driver,
    net: Arc<Mutex<Net>>,
    fake: Fake,
    metrics: Arc<NetMetrics>,
}

fn with(config: NetConfig, features: u64) -> Fixture {
    let fake = Fake::new();
    let net = Net::new(config, fake.clone()).expect("net");
    let metrics = Arc::clone(net.metrics());
    let net = Arc::new(Mutex::new(net));
    let driver = Driver::started(net.clone(), V1 | features, 2);
    Fixture { driver, net, fake, metrics }
}

fn started(features: u64) -> Fixture {
    with(NetConfig { mac: MAC, ..NetConfig::default() }, features)
}

/// A frame of `len` bytes, no two the same in a row.
fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// What the driver sends: header and frame in the given cuts.
fn send(driver: &mut Driver, header: &Header, frame: &[u8], cuts: &[u32]) {
    let bytes = [&header.bytes(0)[..], frame].concat();
    driver.put(OUT, &bytes);
    let mut at = OUT;
    let mut buffers = Vec::new();
    let rest = bytes.len() as u32 - cuts.iter().sum::<u32>();
    for len in cuts.iter().copied().chain([rest]) {
        buffers.push(Buf::Out(at, len));
        at += u64::from(len);
    }
    driver.add(TX, &buffers);
    driver.kick(TX);
}

#[test]
fn the_driver_sees_address_mtu_and_what_is_offered() {
    let fake = Fake::new();
    let config = NetConfig { mac: MAC, mtu: Some(9000), ..NetConfig::default() };
    let net = Net::new(config, fake).expect("net");
    assert_eq!(net.kind() as u32, 1);
    let expected = [0, 1, 3, 5, 7, 8, 11, 12, 15, 28, 29].iter().fold(0, |bits, bit| bits | 1u64 << bit);
    assert_eq!(net.features(), expected);
    assert_eq!(net.config_space()[..14], [2, 0xaa, 1, 2, 3, 4, 0, 0, 0, 0, 0x28, 0x23, 0, 0]);
    let without = Net::new(NetConfig::default(), Fake::new()).expect("net");
    assert_eq!(without.features(), expected & !(1 << 3), "no MTU");

    let Fixture { driver, metrics, .. } = started(0);
    driver.set(0x100, 1);
    assert_eq!(metrics.bad_config_writes.get(), 1);
}

#[test]
fn frames_of_the_guest_reach_the_back_end_however_they_are_cut() {
    let Fixture { mut driver, fake, metrics, .. } = started(1 | 1 << feature::HOST_TSO4);
    let plain = Header::default();
    let cut = Header {
        needs_csum: true,
        gso: Gso::Tcp4,
        hdr_len: 54,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
    };
    let cases = [
        (plain, 60, &[][..]),
        (plain, 14, &[12]),
        (plain, 1514, &[5, 20, 0, 1]),
        (cut, MAX_FRAME, &[12, 4096]),
    ];
    for (header, len, cuts) in cases {
        let sent = frame(len);
        send(&mut driver, &header, &sent, cuts);
        assert_eq!(driver.used(TX).len(), 1);
        assert!(lock(&fake.state).got.pop() == Some((header, sent)), "{len}");
    }
    assert_eq!((metrics.tx_packets.get(), metrics.tx_bytes.get()), (4, 60 + 14 + 1514 + MAX_FRAME as u64));
    assert_eq!(driver.interrupts().1, 1);
}

#[test]
fn frames_that_make_no_sense_come_back_and_go_nowhere() {
    let Fixture { mut driver, fake, metrics, .. } = started(1 | 1 << feature::HOST_TSO4);
    driver.put(OUT, &[0; 128]);
    let cut =
        Header { needs_csum: true, gso: Gso::Tcp4, gso_size: 1448, csum_start: 34, ..Header::default() };
    let mut headers = [
        (Header { gso: Gso::Tcp6, ..cut }.bytes(0), "not agreed upon"),
        (Header { gso_size: 0, ..cut }.bytes(0), "segments of nothing"),
        (Header { needs_csum: false, ..cut }.bytes(0), "segments without a checksum"),
        (Header { csum_start: 87, ..cut }.bytes(0), "a checksum beyond the end"),
        (Header { csum_start: u16::MAX, csum_offset: u16::MAX, ..cut }.bytes(0), "far beyond"),
        ([0; HEADER], "UDP segments, offered to nobody"),
    ];
    headers[5].0[1] = 3;
    for (i, (header, _)) in headers.iter().enumerate() {
        driver.put(OUT + 256 * (i as u64 + 1), header);
    }
    let longest = (HEADER + MAX_FRAME) as u32;
    let mut bad = vec![
        vec![Buf::Out(OUT, 0)],
        vec![Buf::Out(OUT, 11)],
        vec![Buf::Out(OUT, 12)],
        vec![Buf::Out(OUT, 25)],
        vec![Buf::Out(OUT, longest + 1)],
        vec![Buf::Out(OUT, longest), Buf::Out(OUT, 1)],
        vec![Buf::Out(OUT, u32::MAX)],
        vec![Buf::Out(OUT, 12), Buf::Out(RAM - 4, 60)],
        vec![Buf::Out(RAM - 4, 60)],
        vec![Buf::Out(OUT, 12), Buf::Out(u64::MAX - 3, 60)],
        vec![Buf::Out(u64::MAX - 11, 72)],
        vec![Buf::Out(OUT, 72), Buf::In(OUT, 60)],
        vec![Buf::In(OUT, 72)],
    ];
    bad.extend((1..=6).map(|i| vec![Buf::Out(OUT + 256 * i, 12), Buf::Out(OUT, 88)]));
    for buffers in &bad {
        assert_eq!(driver.request(TX, buffers), 0, "{buffers:?}");
    }
    assert_eq!(metrics.tx_bad_frames.get(), bad.len() as u64);
    assert_eq!(lock(&fake.state).got.len(), 0);
    send(&mut driver, &Header { csum_start: 86, ..cut }, &frame(88), &[12]);
    assert_eq!(lock(&fake.state).got.len(), 1, "the checksum may be the last thing");
    assert_eq!(driver.get(0x70), 15, "it goes on");
}

#[test]
fn what_the_back_end_does_not_take_is_counted_by_reason() {
    let Fixture { mut driver, fake, metrics, .. } = started(0);
    lock(&fake.state).answers.extend([Transmitted::Full, Transmitted::Refused]);
    for _ in 0..3 {
        send(&mut driver, &Header::default(), &frame(60), &[]);
    }
    assert_eq!(driver.used(TX).len(), 3);
    let counts = [&metrics.tx_dropped_full, &metrics.tx_dropped_refused, &metrics.tx_packets];
    assert_eq!(counts.map(|count| count.get()), [1, 1, 1]);
}

#[test]
fn a_frame_fills_as_many_merged_buffers_as_it_needs() {
    let Fixture { mut driver, fake, metrics, .. } = started(MERGED);
    // The header is cut, too.
    let at = |i: u64| BUFFERS + 0x2_0000 * i;
    driver.add(RX, &[Buf::In(at(0), 5), Buf::In(at(0) + 5, 6), Buf::In(at(0) + 11, 100)]);
    driver.add(RX, &[Buf::In(at(1), 1000), Buf::In(at(1) + 1000, 0), Buf::In(at(1) + 1000, 500)]);
    driver.add(RX, &[Buf::In(at(2), 4096)]);
    driver.add(RX, &[Buf::In(at(3), 60)]);
    driver.kick(RX);
    let (first, second) = (frame(1700), frame(48));
    let header = Header { needs_csum: true, csum_start: 34, csum_offset: 6, ..Header::default() };
    lock(&fake.state).frames.push_back((header, first.clone()));
    fake.send([second.clone()]);
    driver.run();
    let used = driver.used(RX);
    let expected = [(0, 111), (3, 1500), (6, 101), (7, 60)];
    assert_eq!(used, expected);
    let bytes = [driver.bytes(at(0), 111), driver.bytes(at(1), 1500), driver.bytes(at(2), 101)].concat();
    assert_eq!(bytes[..HEADER], header.bytes(3));
    assert!(bytes[HEADER..] == first);
    let bytes = driver.bytes(at(3), 60);
    assert_eq!(bytes[..HEADER], Header::default().bytes(1));
    assert!(bytes[HEADER..] == second);
    assert_eq!((metrics.rx_packets.get(), metrics.rx_bytes.get()), (2, 1748));
}

#[test]
fn the_largest_frame_fits_into_a_ring_of_small_buffers() {
    let Fixture { mut driver, fake, .. } = started(MERGED | EVENT_IDX);
    let largest = frame(MAX_FRAME);
    for _ in 0..3 {
        for i in 0..u64::from(SIZE) {
            driver.add(RX, &[Buf::In(BUFFERS + 0x2000 * i, 0x1100)]);
        }
        driver.kick(RX);
        fake.send([largest.clone()]);
        driver.run();
        let used = driver.used(RX);
        assert_eq!(used.len(), (HEADER + MAX_FRAME).div_ceil(0x1100));
        let part = |(i, len)| driver.bytes(BUFFERS + 0x2000 * u64::from(i), len as usize);
        let bytes: Vec<u8> = used.iter().copied().flat_map(part).collect();
        assert_eq!(bytes[..HEADER], Header::default().bytes(used.len() as u16));
        assert!(bytes[HEADER..] == largest);
        // A driver that begins anew has all of its buffers.
        driver.set(0x70, 0);
        driver.start(V1 | MERGED | EVENT_IDX, 2);
    }
    assert_eq!(lock(&fake.state).resets, 3);
}

#[test]
fn all_chains_of_a_frame_come_in_one_moment() {
    let Fixture { mut driver, fake, .. } = started(MERGED);
    let (ram, is_over) = (driver.ram.clone(), Arc::new(AtomicBool::new(false)));
    let watcher = thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            let mut seen = 0u32;
            while !is_over.load(Ordering::Relaxed) {
                let index: u16 =
                    ram.load(GuestAddress(rings(RX).used + 2), Ordering::Acquire).expect("index");
                assert_eq!(index % SIZE, 0, "part of a frame was seen");
                seen += 1;
            }
            seen
        }
    });
    for _ in 0..2000 {
        for i in 0..u64::from(SIZE) {
            driver.add(RX, &[Buf::In(BUFFERS + 64 * i, 64)]);
        }
        fake.send([frame(64 * usize::from(SIZE) - HEADER)]);
        driver.run();
        driver.kick(RX);
        assert_eq!(driver.used(RX).len(), usize::from(SIZE));
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(watcher.join().expect("nothing was seen that should not be") > 0);
}

#[test]
fn without_merged_buffers_a_frame_needs_one_that_is_large_enough() {
    let Fixture { mut driver, fake, metrics, .. } = started(0);
    driver.add(RX, &[Buf::In(BUFFERS, 12), Buf::In(BUFFERS + 0x1000, 100)]);
    driver.add(RX, &[Buf::In(BUFFERS + 0x2000, 4096)]);
    fake.send([frame(101), frame(100), frame(101)]);
    driver.run();
    assert_eq!(driver.used(RX), [(0, 112), (2, 113)]);
    assert_eq!(driver.bytes(BUFFERS, 12), Header::default().bytes(1));
    assert!(driver.bytes(BUFFERS + 0x1000, 100) == frame(100));
    assert_eq!(metrics.rx_dropped_too_large.get(), 1);
}

#[test]
fn frames_wait_for_buffers_and_those_that_never_fit_do_not() {
    let Fixture { mut driver, fake, metrics, .. } = started(MERGED);
    fake.send([frame(60), frame(300), frame(61)]);
    driver.run();
    assert_eq!((lock(&fake.state).frames.len(), metrics.rx_no_buffers.get() > 0), (3, true));
    driver.add(RX, &[Buf::In(BUFFERS, 200)]);
    driver.kick(RX);
    assert_eq!(driver.used(RX), [(0, 72)]);
    for _ in 0..SIZE {
        driver.add(RX, &[Buf::In(BUFFERS, 19)]);
    }
    driver.kick(RX);
    // 16 buffers of 19 bytes are all that a ring of 16 can have.
    assert_eq!((driver.used(RX).len(), metrics.rx_dropped_too_large.get()), (4, 1));
    assert_eq!(lock(&fake.state).frames.len(), 0);
}

#[test]
fn chains_that_are_no_buffers_come_back_empty() {
    let Fixture { mut driver, fake, metrics, .. } = started(MERGED);
    let bad = [
        vec![Buf::Out(BUFFERS, 64)],
        vec![Buf::In(BUFFERS, 64), Buf::Out(BUFFERS, 64)],
        vec![Buf::In(BUFFERS, 0)],
        vec![Buf::In(BUFFERS, 64), Buf::In(RAM - 4, 64)],
        vec![Buf::In(RAM, 64)],
        vec![Buf::In(u64::MAX - 3, 64)],
        vec![Buf::In(BUFFERS, u32::MAX)],
    ];
    let mut heads: Vec<_> = bad.iter().map(|buffers| (u32::from(driver.add(RX, buffers)), 0)).collect();
    heads.push((driver.add(RX, &[Buf::In(BUFFERS, 2048)]).into(), 72));
    fake.send([frame(60)]);
    driver.run();
    assert_eq!(driver.used(RX), heads);
    assert_eq!(metrics.rx_bad_chains.get(), bad.len() as u64);
    assert_eq!(driver.get(0x70), 15, "it goes on");
}

#[test]
fn what_the_driver_writes_into_held_buffers_descriptors_changes_nothing() {
    let Fixture { mut driver, fake, .. } = started(MERGED);
    driver.add(RX, &[Buf::In(BUFFERS, 100)]);
    driver.add(RX, &[Buf::In(BUFFERS + 0x1000, 1000)]);
    // The back end asks for more room than there is: both are held.
    fake.send([frame(1500)]);
    driver.run();
    for i in 0..2 {
        driver.describe(RX, i, Descriptor::new(u64::MAX, u32::MAX, 1, 0));
    }
    driver.put(rings(RX).avail + 4, &[0xff; 4]);
    driver.add(RX, &[Buf::In(BUFFERS + 0x2000, 2000)]);
    driver.kick(RX);
    assert_eq!(driver.used(RX), [(0, 100), (1, 1000), (2, 412)]);
    let bytes = [driver.bytes(BUFFERS, 100), driver.bytes(BUFFERS + 0x1000, 1000)].concat();
    assert!(bytes[HEADER..] == frame(1500)[..1088]);
    assert_eq!(driver.get(0x70), 15);
}

#[test]
fn held_buffers_end_with_the_driver_that_gave_them() {
    let Fixture { mut driver, fake, metrics, .. } = started(MERGED | 0b11 | 1 << feature::GUEST_TSO4);
    driver.add(RX, &[Buf::In(BUFFERS, 1000)]);
    fake.send([frame(1500)]);
    driver.run();
    // The rings are reused; the old buffers stay as they are.
    driver.set(0x70, 0);
    fake.send([frame(50)]);
    driver.run();
    assert_eq!(lock(&fake.state).frames.len(), 2, "nobody is there");
    driver.start(V1 | MERGED | 1 << feature::HOST_TSO4 | 1 << feature::GUEST_TSO6, 2);
    driver.add(RX, &[Buf::In(BUFFERS + 0x4000, 2000)]);
    driver.kick(RX);
    assert_eq!(driver.used(RX), [(0, 1512)]);
    assert_eq!(driver.bytes(BUFFERS, 1000), vec![0; 1000]);
    let offloads = [0b11 | 1 << feature::GUEST_TSO4, 0];
    assert_eq!(lock(&fake.state).offloads, offloads, "no segments without checksums");
    // Nor do they outlive the queue.
    driver.add(RX, &[Buf::In(BUFFERS, 40)]);
    driver.kick(RX);
    driver.set(0x30, RX as u32);
    driver.set(0x44, 0);
    lock(&fake.state).frames.clear();
    fake.send([frame(20)]);
    driver.run();
    assert_eq!((driver.used(RX), metrics.rx_packets.get()), (vec![], 1));
    assert_eq!(driver.bytes(BUFFERS, 40), [0; 40]);
}

#[test]
fn a_frame_that_the_back_end_puts_off_stays_in_the_ring() {
    let Fixture { mut driver, fake, metrics, .. } = started(MERGED);
    lock(&fake.state).echoes = true;
    for len in [60, 61] {
        send(&mut driver, &Header::default(), &frame(len), &[]);
        assert_eq!(driver.used(TX), [], "no room for the answer");
    }
    for _ in 0..2 {
        driver.add(RX, &[Buf::In(BUFFERS, 200)]);
        driver.kick(RX);
        assert_eq!((driver.used(TX).len(), driver.used(RX).len()), (1, 1), "one for one");
    }
    assert_eq!(metrics.tx_packets.get(), 2);
}

#[test]
fn an_answer_and_what_it_answers_are_one_interrupt() {
    let Fixture { mut driver, fake, .. } = started(MERGED);
    lock(&fake.state).echoes = true;
    driver.add(RX, &[Buf::In(BUFFERS, 200)]);
    driver.kick(RX);
    assert_eq!(driver.interrupts(), (0, 0), "nothing was used");
    send(&mut driver, &Header::default(), &frame(60), &[]);
    assert_eq!((driver.used(TX).len(), driver.used(RX).len()), (1, 1));
    assert_eq!(driver.interrupts(), (1, 1));
}

#[test]
fn one_turn_is_bounded_and_the_next_goes_on() {
    let Fixture { mut driver, fake, .. } = started(MERGED);
    driver.set(0x70, 0);
    driver.negotiate(V1 | MERGED);
    for queue in 0..2 {
        driver.set_up_queue(queue, 256, rings(queue));
    }
    driver.set(0x70, 15);
    driver.run();
    for i in 0..200u16 {
        driver.describe(RX, i, Descriptor::new(BUFFERS, 100, 2, 0));
        driver.put(rings(RX).avail + 4 + 2 * u64::from(i), &i.to_le_bytes());
    }
    driver.put(rings(RX).avail + 2, &200u16.to_le_bytes());
    let used = |driver: &Driver| driver.bytes(rings(RX).used + 2, 2);
    fake.send((0..200).map(|_| frame(60)));
    driver.turn();
    assert_eq!(used(&driver), [128, 0]);
    driver.run();
    assert_eq!(used(&driver), [200, 0]);
}

/// Rings of 256 entries, all of which name the same memory.
#[test]
fn a_turn_moves_no_more_bytes_than_stated() {
    const LEN: usize = 60_000;
    let Fixture { mut driver, fake, .. } = started(MERGED);
    driver.set(0x70, 0);
    driver.negotiate(V1);
    for queue in [RX, TX] {
        driver.set_up_queue(queue, 256, rings(queue));
        for i in 0..40u16 {
            let flags = if queue == RX { 2 } else { 0 };
            driver.describe(queue, i, Descriptor::new(BUFFERS, (HEADER + LEN) as u32, flags, 0));
            driver.put(rings(queue).avail + 4 + 2 * u64::from(i), &i.to_le_bytes());
        }
    }
    driver.put(BUFFERS, &[0; HEADER]);
    driver.set(0x70, 15);
    driver.run();
    let used = |driver: &Driver, queue| u32::from(driver.bytes(rings(queue).used + 2, 1)[0]);
    // 17 frames are less than 1 MiB, and the next one ends the turn.
    driver.put(rings(TX).avail + 2, &40u16.to_le_bytes());
    driver.set(0x50, TX as u32);
    for sent in [18, 36, 40] {
        driver.turn();
        assert_eq!(used(&driver, TX), sent);
    }
    driver.put(rings(RX).avail + 2, &40u16.to_le_bytes());
    fake.send((0..40).map(|_| frame(LEN)));
    for received in [18, 36, 40] {
        driver.turn();
        assert_eq!(used(&driver, RX), received);
    }
}

#[test]
fn the_driver_is_interrupted_when_it_wants_to_be() {
    let Fixture { mut driver, fake, .. } = started(MERGED | EVENT_IDX);
    for i in 0..8 {
        driver.add(RX, &[Buf::In(BUFFERS + 64 * i, 64)]);
    }
    driver.kick(RX);
    driver.interrupts();
    let wanted = rings(RX).avail + 4 + 2 * u64::from(SIZE);
    for (after, len, expected) in [(1u16, 150, 1), (1, 40, 0), (6, 40, 0), (6, 100, 1)] {
        driver.put(wanted, &after.to_le_bytes());
        fake.send([frame(len)]);
        driver.run();
        assert_eq!(driver.interrupts().0, expected, "{after} {len}");
    }
    assert_eq!(driver.used(RX).len(), 7);
}

#[test]
fn indirect_chains_are_chains() {
    let Fixture { mut driver, fake, .. } = started(MERGED | INDIRECT);
    let table = BUFFERS + 0x8000;
    for (queue, flags) in [(RX, 2), (TX, 0)] {
        for (i, len, next) in [(0u64, 10, 1), (1, 62, 0)] {
            let more = u16::from(i == 0);
            driver
                .ram
                .write_obj(
                    Descriptor::new(BUFFERS + 10 * i, len, flags | more, next),
                    GuestAddress(table + 16 * i),
                )
                .expect("RAM");
        }
        driver.describe(queue, 0, Descriptor::new(table, 32, 4, 0));
        driver.put(BUFFERS, &[0; 72]);
        driver.offer(queue, 0);
        fake.send((queue == RX).then(|| frame(60)));
        driver.kick(queue);
        assert_eq!(driver.used(queue).len(), 1);
    }
    assert_eq!(lock(&fake.state).got, [(Header::default(), vec![0; 60])]);
}

/// Two operations, and then none for an hour.
const TWO: Limits = Limits {
    bandwidth: None,
    ops: Some(Limit { size: 2, one_time_burst: 0, refill_time: Duration::from_secs(7200) }),
};
const NO_LIMIT: Limit = Limit { size: 0, one_time_burst: 0, refill_time: Duration::ZERO };

#[test]
fn limits_hold_frames_back_until_they_are_lifted() {
    let config = NetConfig { rx_limits: TWO, tx_limits: TWO, ..NetConfig::default() };
    let Fixture { mut driver, net, fake, metrics } = with(config, MERGED);
    let control = Arc::clone(lock(&net).control());
    for _ in 0..4 {
        send(&mut driver, &Header::default(), &frame(60), &[]);
        driver.add(RX, &[Buf::In(BUFFERS, 200)]);
        fake.send([frame(60)]);
    }
    driver.run();
    driver.kick(RX);
    assert_eq!((driver.used(TX).len(), driver.used(RX).len()), (2, 2));
    assert!(metrics.tx_rate_limited.get() > 0 && metrics.rx_rate_limited.get() > 0);
    // A bucket of the other kind lifts nothing; only one direction is opened.
    let bytes = Limits { bandwidth: Some(NO_LIMIT), ops: None };
    let busy = lock(&net);
    control.set_limits(Limits::default(), Limits { ops: Some(NO_LIMIT), ..Limits::default() });
    control.set_limits(bytes, bytes);
    drop(busy);
    driver.wait();
    driver.run();
    while driver.used(TX).len() < 2 {
        driver.wait();
    }
    assert_eq!(driver.used(RX), []);
}

#[test]
fn the_timer_goes_on_where_tokens_ran_out() {
    let limit = Limit { size: 100, one_time_burst: 0, refill_time: Duration::from_millis(2) };
    let limits = Limits { bandwidth: Some(limit), ops: None };
    let config = NetConfig { rx_limits: limits, tx_limits: limits, ..NetConfig::default() };
    let Fixture { mut driver, fake, .. } = with(config, MERGED);
    for i in 0..4 {
        driver.put(OUT, &[0; 512]);
        driver.add(TX, &[Buf::Out(OUT, 512)]);
        driver.add(RX, &[Buf::In(BUFFERS + 512 * i, 512)]);
    }
    fake.send((0..4).map(|_| frame(500)));
    driver.kick(TX);
    let (mut sent, mut received) = (0, 0);
    while (sent, received) != (4, 4) {
        sent += driver.used(TX).len();
        received += driver.used(RX).len();
        if (sent, received) != (4, 4) {
            driver.turn();
        }
    }
}
