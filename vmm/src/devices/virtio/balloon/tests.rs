//! The balloon against a driver in memory and a memory service that writes down what it is asked.

use std::sync::{Arc, Mutex};

use memsvc::{Gfn, Outcome};

use super::{Balloon, BalloonBackend, BalloonConfig, BalloonControl, BalloonError, BalloonMetrics, feature};
use crate::devices::virtio::lock;
use crate::devices::virtio::testing::{BUFFERS, Buf, Driver, RAM, V1};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Inflate(Vec<u64>),
    Deflate(Vec<u64>),
    Free(u64, u64),
    Reset,
}
use Call::*;

/// Takes everything but frame 666.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Call>>>);

impl Recorder {
    fn note(&self, gfns: &[Gfn], call: fn(Vec<u64>) -> Call) -> Outcome {
        lock(&self.0).push(call(gfns.iter().map(|gfn| gfn.0).collect()));
        let refused = gfns.iter().filter(|gfn| gfn.0 == 666).count() as u32;
        Outcome { accepted: gfns.len() as u32 - refused, refused }
    }

    fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *lock(&self.0))
    }
}

impl BalloonBackend for Recorder {
    fn inflate(&self, gfns: &[Gfn]) -> Outcome {
        self.note(gfns, Inflate)
    }
    fn deflate(&self, gfns: &[Gfn]) -> Outcome {
        self.note(gfns, Deflate)
    }
    fn report_free(&self, gpa: u64, len: u64) -> Outcome {
        lock(&self.0).push(Free(gpa, len));
        Outcome { accepted: (len / 4096) as u32, refused: 0 }
    }
    fn reset_balloon(&self) {
        lock(&self.0).push(Reset);
    }
}

const ALL: BalloonConfig = BalloonConfig {
    amount_mib: 16,
    ram_mib: 64,
    deflate_on_oom: true,
    stats_polling_interval_s: 1,
    free_page_hinting: true,
    free_page_reporting: true,
};
const ALL_FEATURES: u64 = V1 | 0x3f;

struct Fixture {
    driver: Driver,
    balloon: Arc<Mutex<Balloon>>,
    control: Arc<BalloonControl>,
    calls: Recorder,
    metrics: Arc<BalloonMetrics>,
}

fn started(config: BalloonConfig, features: u64, queues: usize) -> Fixture {
    let calls = Recorder::default();
    let balloon = Balloon::new(config, calls.clone()).expect("balloon");
    let (metrics, control) = (Arc::clone(balloon.metrics()), Arc::clone(balloon.control()));
    let balloon = Arc::new(Mutex::new(balloon));
    let driver = Driver::started(balloon.clone(), features, queues);
    Fixture { driver, balloon, control, calls, metrics }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn a_buffer_of_pages_is_one_batch() {
    let Fixture { mut driver, calls, metrics, .. } = started(ALL, ALL_FEATURES, 5);
    driver.put(BUFFERS, &words(&[5, 6, u32::MAX, 666]));
    assert_eq!(driver.request(0, &[Buf::Out(BUFFERS, 16)]), 0);
    assert_eq!(driver.request(1, &[Buf::Out(BUFFERS, 8)]), 0);
    assert_eq!(calls.calls(), [Inflate(vec![5, 6, u32::MAX.into(), 666]), Deflate(vec![5, 6])]);
    assert_eq!(
        [metrics.inflated_pages.get(), metrics.deflated_pages.get(), metrics.refused_pages.get()],
        [3, 2, 1]
    );
}

#[test]
fn bad_buffers_of_pages_are_counted_and_come_back() {
    let Fixture { mut driver, calls, metrics, .. } = started(ALL, ALL_FEATURES, 5);
    let bad = [
        Buf::Out(BUFFERS, 1028),
        Buf::Out(BUFFERS, u32::MAX),
        Buf::Out(BUFFERS, 6),
        Buf::Out(BUFFERS, 0),
        Buf::Out(RAM - 2, 4),
        Buf::Out(u64::MAX - 1, 4),
        Buf::In(BUFFERS, 4),
    ];
    for buffer in bad {
        for queue in 0..2 {
            assert_eq!(driver.request(queue, &[buffer]), 0, "{buffer:?}");
        }
    }
    assert_eq!(calls.calls(), []);
    assert_eq!(metrics.bad_page_buffers.get(), 2 * bad.len() as u64);
    // The good ones of a chain count; 256 is the most.
    driver.request(0, &[Buf::Out(BUFFERS, 1028), Buf::Out(BUFFERS, 1024)]);
    assert_eq!(calls.calls(), [Inflate(vec![0; 256])]);
    assert_eq!(driver.get(0x70), 15);
}

#[test]
fn queues_are_numbered_by_what_is_acknowledged() {
    let reporting = V1 | 1 << feature::REPORTING;
    let Fixture { mut driver, calls, .. } = started(ALL, reporting, 3);
    driver.set(0x30, 3);
    assert_eq!(driver.get(0x34), 0, "there is no fourth queue");
    driver.request(2, &[Buf::In(0x20_0000, 0x20_0000)]);
    assert_eq!(calls.calls(), [Free(0x20_0000, 0x20_0000)]);
}

#[test]
fn features_are_offered_as_configured() {
    let offered = |config| {
        let balloon = Balloon::new(config, Recorder::default()).expect("balloon");
        let driver = Driver::new(Arc::new(Mutex::new(balloon)));
        driver.get(0x10) & 0xffff
    };
    assert_eq!(offered(ALL), 0x3f);
    assert_eq!(offered(BalloonConfig { ram_mib: 1, ..Default::default() }), 1);
    assert_eq!(offered(BalloonConfig { free_page_reporting: true, ..Default::default() }), 0x31);
}

#[test]
fn reported_ranges_are_freed_unless_they_hold_poison() {
    let Fixture { mut driver, calls, metrics, .. } = started(ALL, ALL_FEATURES, 5);
    let ranges = [Buf::In(0x20_0000, 0x20_0000), Buf::In(1 << 40, 0x1000)];
    assert_eq!(driver.request(4, &ranges), 0);
    assert_eq!(calls.calls(), [Free(0x20_0000, 0x20_0000), Free(1 << 40, 0x1000)]);
    for bad in [Buf::In(0x800, 0x1000), Buf::In(0x1000, 0x801), Buf::In(0x1000, 0), Buf::Out(0x1000, 0x1000)]
    {
        driver.request(4, &[bad]);
    }
    assert_eq!(metrics.bad_ranges.get(), 4);
    driver.set(0x10c, 0xaaaa_aaaa);
    driver.request(4, &ranges);
    assert_eq!(calls.calls(), []);
    assert_eq!(metrics.poisoned_ranges.get(), 2);
}

#[test]
fn the_driver_writes_its_own_fields_only() {
    let Fixture { mut driver, balloon, metrics, .. } = started(ALL, ALL_FEATURES, 5);
    let config = |driver: &Driver| [0x100, 0x104, 0x108, 0x10c].map(|at| driver.get(at));
    driver.set(0x104, 77);
    driver.set(0x10c, 88);
    assert_eq!(config(&driver), [16 * 256, 77, 0, 88]);
    assert_eq!(lock(&balloon).actual_pages(), 77);
    driver.set(0x100, 1);
    driver.set(0x108, 1);
    driver.set(0x102, 1);
    driver.set(0x106, 1);
    driver.set(0x110, 1);
    driver.mmio.write(0x104, &[1; 8]);
    driver.mmio.write(0xfff, &[1; 8]);
    driver.mmio.write(u64::MAX, &[1; 8]);
    assert_eq!(metrics.bad_config_writes.get(), 8);
    assert_eq!(config(&driver), [16 * 256, 77, 0, 88]);
    driver.mmio.write(0x105, &[1]);
    assert_eq!(driver.get(0x104), 77 | 256);
    let mut wide = [0xff; 8];
    driver.mmio.page().read(0x10c, &mut wide);
    assert_eq!(wide, [88, 0, 0, 0, 0, 0, 0, 0], "zero beyond the end");
    driver.set(0x70, 0);
    assert_eq!(config(&driver), [16 * 256, 0, 0, 0], "a reset forgets what the driver said");
    driver.start(V1, 2);
}

#[test]
fn a_target_reaches_the_driver_and_fits_the_guest() {
    let Fixture { mut driver, control, .. } = started(ALL, ALL_FEATURES, 5);
    let generation = driver.get(0xfc);
    control.set_target_mib(64).expect("fits");
    driver.run();
    assert_eq!((driver.get(0x100), driver.interrupts()), (64 * 256, (1, 2)));
    assert_ne!(driver.get(0xfc), generation);
    let refused = control.set_target_mib(65);
    driver.run();
    assert_eq!(refused, Err(BalloonError::TooLarge { asked: 65, ram: 64 }));
    assert!(Balloon::new(BalloonConfig { amount_mib: 65, ..ALL }, Recorder::default()).is_err());
    assert_eq!((driver.get(0x100), driver.interrupts()), (64 * 256, (0, 0)));
    control.set_stats_interval(7).expect("on");
    driver.run();
    assert_eq!(driver.interrupts(), (0, 0), "that is not the driver's business");
}

#[test]
fn the_first_target_of_all_may_be_none() {
    let Fixture { mut driver, control, .. } = started(ALL, ALL_FEATURES, 5);
    control.set_target_mib(0).expect("fits");
    driver.run();
    assert_eq!((driver.get(0x100), driver.interrupts()), (0, (1, 2)));
}

#[test]
fn the_operator_waits_for_no_device() {
    let Fixture { mut driver, balloon, control, .. } = started(ALL, ALL_FEATURES, 5);
    // As long as the device touches guest memory that is not there.
    let busy = lock(&balloon);
    control.set_target_mib(8).expect("fits");
    control.set_stats_interval(9).expect("on");
    control.hinting_start(true).expect("driven");
    assert_eq!((control.target_pages(), control.stats()), (8 * 256, Ok(Default::default())));
    assert_eq!(control.hinting_status().map(|status| status.host_cmd), Ok(2));
    assert_eq!([driver.get(0x100), driver.get(0x108)], [16 * 256, 0], "not told yet");
    drop(busy);
    driver.run();
    assert_eq!([driver.get(0x100), driver.get(0x108)], [8 * 256, 2]);
}

/// Entries of a statistics buffer.
fn stats(entries: &[(u16, u64)]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|(tag, value)| {
            let mut entry = tag.to_le_bytes().to_vec();
            entry.extend(value.to_le_bytes());
            entry
        })
        .collect()
}

#[test]
fn statistics_are_read_kept_and_asked_for_again() {
    let Fixture { mut driver, control, metrics, .. } = started(ALL, ALL_FEATURES, 5);
    let entries: Vec<_> = (0..17).map(|tag| (tag, 1000 + u64::from(tag))).collect();
    driver.put(BUFFERS, &stats(&entries));
    let head = driver.add(2, &[Buf::Out(BUFFERS, 170)]);
    driver.kick(2);
    assert_eq!(driver.used(2), [], "kept until the next poll");
    let got = serde_json::to_value(control.stats().expect("on")).expect("json");
    for (name, value) in
        [("swap_in", 1000), ("free_memory", 1004), ("disk_caches", 1007), ("direct_reclaim", 1015)]
    {
        assert_eq!(got[name], value, "{name}");
    }
    assert_eq!(got.as_object().map(|map| map.len()), Some(16));
    assert_eq!(metrics.unknown_stats.get(), 1);

    driver.interrupts();
    driver.wait();
    assert_eq!(driver.used(2), [(head.into(), 0)]);
    assert_eq!(driver.interrupts(), (1, 1));

    driver.put(BUFFERS, &stats(&[(4, 7)]));
    driver.add(2, &[Buf::Out(BUFFERS, 10)]);
    driver.kick(2);
    let got = control.stats().expect("on");
    assert_eq!((got.free_memory, got.swap_in), (Some(7), Some(1000)), "what was not said stays");
    driver.add(2, &[Buf::Out(BUFFERS, 0)]);
    driver.kick(2);
    assert_eq!((control.stats().expect("on"), metrics.stats_updates.get()), (got, 2), "nothing was said");

    driver.set(0x70, 0);
    assert_eq!(control.stats().expect("on"), Default::default(), "another driver begins anew");
}

/// With an interval that never ends here: what is asked is asked at once.
#[test]
fn statistics_are_asked_for_when_the_operator_wants_them() {
    let config = BalloonConfig { stats_polling_interval_s: u16::MAX, ..ALL };
    let Fixture { mut driver, control, .. } = started(config, ALL_FEATURES, 5);
    let tell = |driver: &mut Driver, free: u64| {
        driver.put(BUFFERS, &stats(&[(4, free)]));
        driver.add(2, &[Buf::Out(BUFFERS, 10)]);
        driver.kick(2);
    };
    tell(&mut driver, 1);
    assert_eq!((driver.used(2).len(), control.stats_updates()), (0, 1));
    for round in 1..3 {
        assert_eq!(control.ask_for_stats(), 2 * round - 1);
        driver.run();
        assert_eq!(driver.used(2).len(), 1, "asked for fresh ones");
        tell(&mut driver, 2);
        assert_eq!(control.stats_updates(), 2 * round);
        control.set_stats_interval(u16::MAX).expect("on");
        driver.run();
        assert_eq!(driver.used(2).len(), 1, "asked with a new interval, if it is the same");
        tell(&mut driver, 3);
    }
    driver.run();
    assert_eq!(driver.used(2), [], "and not without a reason");
    // Nobody is there to be asked.
    driver.set(0x70, 0);
    control.ask_for_stats();
    driver.run();
}

#[test]
fn a_target_is_kept_for_a_driver_that_comes_later() {
    let balloon = Balloon::new(ALL, Recorder::default()).expect("balloon");
    let control = Arc::clone(balloon.control());
    let mut driver = Driver::new(Arc::new(Mutex::new(balloon)));
    control.set_target_mib(33).expect("fits");
    driver.run();
    assert_eq!(driver.interrupts(), (0, 0), "there is nobody to interrupt");
    for _ in 0..2 {
        driver.start(ALL_FEATURES, 5);
        assert_eq!(driver.get(0x100), 33 * 256);
        driver.set(0x70, 0);
    }
}

/// As far as a turn goes: ranges are cut where blocks begin, and the chain comes back when all of it is served.
#[test]
fn a_turn_frees_no_more_than_stated() {
    const MIB: u64 = 1 << 20;
    let Fixture { mut driver, calls, metrics, .. } = started(ALL, ALL_FEATURES, 5);
    // From the second half of a block on, 40 MiB, and one more.
    let head = driver.add(4, &[Buf::In(MIB, 40 << 20), Buf::In(512 * MIB, 2 << 20)]);
    driver.set(0x50, 4);
    let turns = [
        vec![Free(MIB, 15 * MIB)],
        vec![Free(16 * MIB, 16 * MIB)],
        vec![Free(32 * MIB, 9 * MIB), Free(512 * MIB, 2 * MIB)],
    ];
    for turn in turns {
        assert_eq!(driver.used(4), []);
        driver.turn();
        assert_eq!(calls.calls(), turn);
    }
    assert_eq!(driver.used(4), [(head.into(), 0)]);
    assert_eq!((metrics.reported_ranges.get(), metrics.reported_pages.get()), (2, 42 * 256));

    // A guest that names all of its memory again and again.
    for _ in 0..4 {
        driver.add(4, &[Buf::In(0, 0xffff_f000)]);
    }
    driver.set(0x50, 4);
    driver.turn();
    assert_eq!(calls.calls(), [Free(0, 16 * MIB)]);
    driver.set(0x70, 0);
    calls.calls();
    driver.start(ALL_FEATURES, 5);
    driver.request(4, &[Buf::In(0, 4096)]);
    assert_eq!(calls.calls(), [Free(0, 4096)], "what was half served is forgotten");
}

#[test]
fn hints_share_turns_and_commands_are_not_given_twice() {
    let Fixture { mut driver, control, calls, metrics, .. } = started(ALL, ALL_FEATURES, 5);
    control.hinting_start(true).expect("driven");
    driver.run();
    driver.put(BUFFERS, &words(&[2, 0, 9]));
    let command = |number: u64| Buf::Out(BUFFERS + 4 * number, 4);
    driver.add(3, &[command(0), Buf::In(0, 32 << 20), command(1)]);
    driver.set(0x50, 3);
    const MIB: u64 = 1 << 20;
    // A command is work, too, and less than a block is left of the first turn.
    for (from, len) in [(0, 14 * MIB), (14 * MIB, 16 * MIB)] {
        driver.turn();
        assert_eq!((calls.calls(), driver.used(3).len()), (vec![Free(from, len)], 0));
        assert_eq!(control.hinting_status().expect("on").guest_cmd, Some(2));
    }
    driver.turn();
    assert_eq!((calls.calls(), driver.used(3).len()), (vec![Free(30 * MIB, 2 * MIB)], 1));
    assert_eq!(metrics.hinted_ranges.get(), 1);
    assert_eq!(control.hinting_status().expect("on").host_cmd, 1, "the guest has ended the run");
}

#[test]
fn a_turn_takes_no_more_pages_than_stated() {
    let Fixture { mut driver, calls, metrics, .. } = started(ALL, ALL_FEATURES, 5);
    for (queue, pages) in [(0, &metrics.inflated_pages), (1, &metrics.deflated_pages)] {
        // 15 buffers of 256 pages in a chain, of which each entry of the ring names one.
        let head = driver.add(queue, &[Buf::Out(BUFFERS, 1024); 15]);
        driver.offer(queue, head);
        driver.set(0x50, queue as u32);
        driver.turn();
        assert_eq!((driver.used(queue).len(), pages.get()), (1, 4096), "a buffer of the second");
        driver.turn();
        assert_eq!((driver.used(queue).len(), pages.get()), (1, 30 * 256));
    }
    assert_eq!([metrics.inflate_buffers.get(), metrics.deflate_buffers.get()], [2, 2]);
    assert_eq!(calls.calls().len(), 60);
}

#[test]
fn bad_statistics_are_bounded_and_counted() {
    let Fixture { mut driver, control, metrics, .. } = started(ALL, ALL_FEATURES, 5);
    for bad in [Buf::Out(BUFFERS, u32::MAX), Buf::Out(BUFFERS, 2570), Buf::Out(BUFFERS, 9), Buf::Out(RAM, 10)]
    {
        driver.add(2, &[bad]);
    }
    driver.add(2, &[Buf::In(BUFFERS, 10)]);
    driver.kick(2);
    assert_eq!(driver.used(2).len(), 1, "at most four are held");
    assert_eq!(metrics.bad_stats_buffers.get(), 5 + 4);
    assert_eq!(control.stats().expect("on"), Default::default());
    assert_eq!(driver.get(0x70), 15);
}

#[test]
fn intervals_do_not_cross_zero() {
    let on = Balloon::new(ALL, Recorder::default()).expect("balloon");
    let off = Balloon::new(BalloonConfig { stats_polling_interval_s: 0, ..ALL }, Recorder::default());
    let (on, off) = (Arc::clone(on.control()), Arc::clone(off.expect("balloon").control()));
    assert_eq!(on.set_stats_interval(5), Ok(()));
    assert_eq!(on.set_stats_interval(0), Err(BalloonError::StatsStayOn));
    assert_eq!(off.set_stats_interval(5), Err(BalloonError::StatsOff));
    assert_eq!(off.stats(), Err(BalloonError::StatsOff));
}

#[test]
fn hints_count_only_under_the_command_in_force() {
    let Fixture { mut driver, control, calls, metrics, .. } = started(ALL, ALL_FEATURES, 5);
    const RANGE: Buf = Buf::In(0x20_0000, 0x10_0000);
    let say = |driver: &mut Driver, id: u32| {
        driver.put(BUFFERS, &words(&[id]));
        driver.request(3, &[Buf::Out(BUFFERS, 4)]);
    };
    let status = || {
        let status = control.hinting_status().expect("on");
        (status.host_cmd, status.guest_cmd)
    };
    assert_eq!(status(), (0, None));
    driver.request(3, &[RANGE]);
    say(&mut driver, 0);
    driver.request(3, &[RANGE]);
    assert_eq!((calls.calls(), metrics.stale_hints.get()), (vec![], 2));

    driver.interrupts();
    control.hinting_start(true).expect("driven");
    driver.run();
    assert_eq!((driver.get(0x108), driver.interrupts()), (2, (1, 2)));
    say(&mut driver, 2);
    driver.request(3, &[RANGE]);
    assert_eq!(calls.calls(), [Free(0x20_0000, 0x10_0000)]);
    driver.interrupts();
    say(&mut driver, 0);
    assert_eq!(status(), (1, Some(0)));
    assert_eq!((driver.get(0x108), driver.interrupts()), (1, (2, 3)), "acknowledged at once");

    control.hinting_start(false).expect("driven");
    driver.run();
    say(&mut driver, 2);
    driver.request(3, &[RANGE]);
    assert_eq!((status(), calls.calls()), ((3, Some(2)), vec![]), "an old command");
    say(&mut driver, 3);
    say(&mut driver, 0);
    assert_eq!(status(), (3, Some(0)), "not acknowledged by itself");
    control.hinting_stop().expect("driven");
    driver.run();
    assert_eq!((status(), driver.get(0x108)), ((1, Some(0)), 1));
    say(&mut driver, 1);
    driver.request(3, &[RANGE]);
    assert_eq!(calls.calls(), [], "DONE is no command");
    driver.request(3, &[Buf::Out(BUFFERS, 3), Buf::Out(RAM, 4)]);
    assert_eq!(metrics.bad_commands.get(), 2);
}

#[test]
fn hinting_needs_a_driver_that_knows_it() {
    let Fixture { driver: _driver, control, .. } = started(ALL, V1, 2);
    assert_eq!(control.hinting_start(true), Err(BalloonError::HintingNotDriven));
    let off = BalloonConfig { free_page_hinting: false, ..ALL };
    let off = Balloon::new(off, Recorder::default()).expect("balloon");
    let off = off.control();
    assert_eq!(off.hinting_start(true), Err(BalloonError::HintingOff));
    assert_eq!(off.hinting_status(), Err(BalloonError::HintingOff));
}

#[test]
fn a_reset_gives_the_ballooned_pages_back() {
    let Fixture { mut driver, calls, .. } = started(ALL, ALL_FEATURES, 5);
    driver.set(0x70, 0);
    assert_eq!(calls.calls(), [Reset]);
    driver.set(0x70, 0);
    assert_eq!(calls.calls(), [], "only once");
    driver.start(ALL_FEATURES, 5);
    driver.put(BUFFERS, &words(&[9]));
    driver.request(0, &[Buf::Out(BUFFERS, 4)]);
    assert_eq!(calls.calls(), [Inflate(vec![9])]);
}
