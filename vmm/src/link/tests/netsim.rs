//! Bad links and sudden ends, seeded: every byte arrives, both ways, or the connection is opened anew.

use std::time::Duration;

use super::net::{Faults, Net};
use super::{ALL_OFFLOADS, NO_OFFLOADS};

const BAD: Faults = Faults { loss: 20, duplicate: 30, late: 100, scarce: true };
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn every_byte_arrives_over_a_bad_link() {
    for seed in 0..5 {
        for offloads in [NO_OFFLOADS, ALL_OFFLOADS] {
            let mut net = Net::new(offloads, BAD, seed);
            for _ in 0..3 {
                net.guest.start(150_000, 65_535);
            }
            net.finish(HOUR);
            let retries: u64 = net.guest.programs.iter().map(|program| program.retries).sum();
            assert_eq!(retries, 0, "nothing is given up, seed {seed}");
            assert_eq!(net.peer.service().tally.received.get(), 450_000);
        }
    }
}

#[test]
fn a_good_link_needs_no_second_frame() {
    for offloads in [NO_OFFLOADS, ALL_OFFLOADS] {
        let mut net = Net::new(offloads, Faults::default(), 1);
        net.guest.start(3_000_000, 65_535);
        let start = net.now;
        net.finish(HOUR);
        assert!(net.now - start < Duration::from_secs(1), "smoltcp repeats after a second: nothing was lost");
        let metrics = net.peer.metrics();
        assert_eq!((metrics.malformed.get(), metrics.bad_checksums.get(), metrics.no_room.get()), (0, 0, 0));
    }
}

#[test]
fn a_guest_with_few_buffers_loses_no_frame() {
    for offloads in [NO_OFFLOADS, ALL_OFFLOADS] {
        let mut net = Net::new(offloads, Faults { scarce: true, ..Faults::default() }, 5);
        net.guest.start(200_000, 65_535);
        net.guest.start(200_000, 65_535);
        let start = net.now;
        net.finish(HOUR);
        assert!(net.peer.metrics().no_room.get() > 10, "it was scarce");
        // 134 segments each way and as many acknowledgements, two buffers a step, and steps without any.
        assert!(net.now - start < Duration::from_secs(10), "took {:?}", net.now - start);
    }
}

#[test]
fn tiny_windows_are_slow_but_get_there() {
    for (seed, window) in [50, 537, 1461, 3000].into_iter().enumerate() {
        let faults = Faults { loss: 5, late: 50, ..Faults::default() };
        let mut net = Net::new(ALL_OFFLOADS, faults, seed as u64);
        net.guest.start(20_000, window);
        net.guest.start(100_000, 65_535);
        net.finish(24 * HOUR);
    }
}

#[test]
fn small_gulps_of_the_service_are_enough() {
    let service = super::pattern::Patterns { gulp: Some(7), ..Default::default() };
    let mut net = Net::with(super::config(), service, NO_OFFLOADS, Faults::default());
    net.guest.start(50_000, 65_535);
    net.finish(HOUR);
}

#[test]
fn connections_reset_in_the_middle_are_opened_anew() {
    for seed in 0..5 {
        let mut net = Net::new(ALL_OFFLOADS, BAD, seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..3 {
            net.guest.start(120_000, 65_535);
        }
        for _ in 0..6 {
            net.run(Duration::from_millis(rng.u64(1..300)));
            let now = net.now;
            net.guest.reset(rng.usize(..3), now);
        }
        net.finish(HOUR);
        net.faults = Faults::default();
        net.run(Duration::from_secs(90));
        let tally = &net.peer.service().tally;
        assert_eq!(tally.opened.get(), tally.dropped.get(), "no stream outlives its connection");
    }
}

#[test]
fn a_guest_that_was_reset_starts_where_it_likes() {
    for seed in 0..3 {
        let mut net = Net::new(ALL_OFFLOADS, BAD, seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        for round in 0..5 {
            for _ in 0..4 {
                net.guest.start(200_000, 65_535);
            }
            net.run(Duration::from_millis(rng.u64(1..2000)));
            net.reboot(Some(if round % 2 == 0 { NO_OFFLOADS } else { ALL_OFFLOADS }));
            let tally = &net.peer.service().tally;
            assert_eq!(tally.opened.get(), tally.dropped.get(), "all are gone at once");
        }
        for _ in 0..4 {
            net.guest.start(50_000, 65_535);
        }
        net.finish(HOUR);
    }
}

#[test]
fn a_guest_that_forgets_without_a_reset_gets_through() {
    // All places are taken by connections that the new guest knows nothing of, from the ports that it uses.
    let mut net = Net::new(ALL_OFFLOADS, Faults::default(), 3);
    for _ in 0..4 {
        net.guest.start(50_000_000, 65_535);
    }
    net.run(Duration::from_millis(20));
    net.reboot(None);
    for _ in 0..4 {
        net.guest.start(100_000, 65_535);
    }
    net.finish(Duration::from_secs(100));
}
