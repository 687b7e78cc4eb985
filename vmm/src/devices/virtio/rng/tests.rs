//! The entropy device against a driver in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Rng, RngMetrics};
use crate::devices::virtio::rate::{Limit, Limits};
use crate::devices::virtio::testing::{BUFFERS, Buf, Driver, RAM, V1};

fn started() -> (Driver, Arc<RngMetrics>) {
    started_with(Limits::default())
}

fn started_with(limits: Limits) -> (Driver, Arc<RngMetrics>) {
    let rng = Rng::new(limits).expect("rng");
    let metrics = Arc::clone(rng.metrics());
    (Driver::started(Arc::new(Mutex::new(rng)), V1, 1), metrics)
}

#[test]
fn every_buffer_is_filled_and_nothing_beside_it() {
    let (mut driver, _) = started();
    let request = [Buf::In(BUFFERS, 5000), Buf::In(BUFFERS + 8192, 64)];
    assert_eq!(driver.request(0, &request), 5064);
    // 16 zero bytes in a row come once in 2^128 times.
    for at in [0, 4984, 8192, 8240] {
        assert_ne!(driver.bytes(BUFFERS + at, 16), [0; 16], "at {at}");
    }
    assert_eq!(driver.bytes(BUFFERS + 5000, 3192), [0; 3192]);
    assert_eq!(driver.bytes(BUFFERS + 8256, 64), [0; 64]);
}

#[test]
fn requests_are_bounded_and_bad_ones_come_back() {
    let (mut driver, metrics) = started();
    assert_eq!(driver.request(0, &[Buf::In(BUFFERS, 1 << 20)]), 64 << 10);
    assert_eq!(driver.request(0, &[Buf::In(RAM, 64)]), 0);
    assert_eq!(driver.request(0, &[Buf::In(BUFFERS, 64), Buf::In(u64::MAX - 8, 64)]), 64);
    assert_eq!(driver.request(0, &[Buf::Out(BUFFERS, 64)]), 0);
    assert_eq!(driver.request(0, &[Buf::In(BUFFERS, 0)]), 0);
    assert_eq!(metrics.bad_requests.get(), 3);
    assert_eq!(driver.get(0x70), 15, "the device goes on");
}

#[test]
fn a_turn_hands_out_no_more_than_stated() {
    let (mut driver, _) = started();
    for _ in 0..8 {
        driver.add(0, &[Buf::In(BUFFERS, 1 << 20)]);
    }
    driver.set(0x50, 0);
    for _ in 0..2 {
        driver.turn();
        assert_eq!(driver.used(0).len(), 4, "of 64 KiB each");
    }
}

/// A limit on bytes, and one on operations.
fn limits(size: u64, ops: u64, refill_time: Duration) -> [Limits; 2] {
    let limit = |size| Some(Limit { size, one_time_burst: size, refill_time });
    [Limits { bandwidth: limit(size), ops: None }, Limits { bandwidth: None, ops: limit(ops) }]
}

#[test]
fn requests_beyond_the_limit_wait_in_the_queue() {
    for limits in limits(64, 1, Duration::from_secs(7200)) {
        let (mut driver, metrics) = started_with(limits);
        for _ in 0..3 {
            driver.add(0, &[Buf::In(BUFFERS, 64)]);
        }
        driver.kick(0);
        assert_eq!(driver.used(0).len(), 2, "the burst and the bucket: {limits:?}");
        driver.kick(0);
        assert_eq!((driver.used(0), metrics.bytes.get(), metrics.rate_limited.get()), (vec![], 128, 2));
    }
}

#[test]
fn requests_that_wait_for_tokens_need_no_further_kick() {
    for limits in limits(64, 1, Duration::from_millis(2)) {
        let (mut driver, _) = started_with(limits);
        for _ in 0..5 {
            driver.add(0, &[Buf::In(BUFFERS, 64)]);
        }
        driver.kick(0);
        let mut served = driver.used(0).len();
        while served < 5 {
            driver.wait();
            served += driver.used(0).len();
        }
    }
}
