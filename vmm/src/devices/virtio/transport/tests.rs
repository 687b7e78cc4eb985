//! The transport as a driver sees it, with the entropy device behind it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::MmioTransport;
use crate::devices::virtio::rate::Limits;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::{BUFFERS, Buf, Driver, RAM, Rings, SIZE, V1, rings};
use crate::devices::virtio::{SharedDevice, Status};

fn rng() -> SharedDevice {
    Arc::new(Mutex::new(Rng::new(Limits::default()).expect("rng")))
}

fn works(driver: &mut Driver) -> bool {
    driver.request(0, &[Buf::In(BUFFERS, 32)]) == 32
}

#[test]
fn a_device_lives_is_reset_and_lives_again() {
    let mut driver = Driver::new(rng());
    assert_eq!([driver.get(0), driver.get(4), driver.get(8)], [0x7472_6976, 2, 4]);
    for _ in 0..2 {
        driver.start(V1, 1);
        assert!(works(&mut driver));
        assert_eq!((driver.get(0x60), driver.mmio.irq().read().ok()), (1, Some(1)));
        driver.set(0x70, 0);
        assert_eq!([driver.get(0x70), driver.get(0x44), driver.get(0x60)], [0, 0, 0]);
    }
    assert_eq!(driver.mmio.metrics().activations.get(), 2);
    assert_eq!(driver.mmio.metrics().bad_register_writes.get(), 0);
}

#[test]
fn a_driver_whose_acknowledgement_stays_in_the_kernel_is_interrupted_again() {
    assert_eq!(MmioTransport::ACK, (0x64, 1));
    let mut driver = Driver::started(rng(), V1, 1);
    for _ in 0..2 {
        assert!(works(&mut driver));
        assert_eq!((driver.get(0x60), driver.mmio.irq().read().ok()), (1, Some(1)));
    }
}

/// As the kernel has it: an acknowledgement of used buffers is a write to the event.
fn acknowledge(driver: &Driver) {
    driver.mmio.seen_event().write(1).expect("event");
}

fn status(driver: &Driver) -> u32 {
    driver.get(0x60)
}

/// The moment passes after which the device looks at what was acknowledged.
fn wait_a_moment(driver: &mut Driver) {
    thread::sleep(Duration::from_millis(30));
    driver.run();
}

#[test]
fn a_driver_that_looks_until_the_status_is_0_gets_there() {
    let mut driver = Driver::started(rng(), V1, 1);
    for _ in 0..3 {
        assert!(works(&mut driver));
        let mut looks = 0;
        while status(&driver) != 0 {
            acknowledge(&driver);
            wait_a_moment(&mut driver);
            looks += 1;
            assert!(looks < 1000, "the status is {} for ever", status(&driver));
        }
    }
}

#[test]
fn a_late_acknowledgement_clears_the_status_too() {
    let mut driver = Driver::started(rng(), V1, 1);
    assert!(works(&mut driver));
    wait_a_moment(&mut driver);
    assert_eq!(status(&driver), 1, "it was not acknowledged");
    acknowledge(&driver);
    wait_a_moment(&mut driver);
    assert_eq!(status(&driver), 0);
    assert!(works(&mut driver));
    assert_eq!(status(&driver), 1, "and the next one is told");
}

#[test]
fn what_was_acknowledged_before_an_interrupt_is_not_for_it() {
    let mut driver = Driver::started(rng(), V1, 1);
    assert!(works(&mut driver));
    acknowledge(&driver);
    assert!(works(&mut driver));
    wait_a_moment(&mut driver);
    assert_eq!(status(&driver), 1, "the second one was not acknowledged");

    // Nor is it for a driver that comes later.
    acknowledge(&driver);
    driver.set(0x70, 0);
    driver.start(V1, 1);
    assert!(works(&mut driver));
    wait_a_moment(&mut driver);
    assert_eq!(status(&driver), 1);
}

#[test]
fn features_are_refused_without_version_1_or_when_not_offered() {
    for features in [0, V1 | 1 << 40, V1 | 1 << 3] {
        let driver = Driver::new(rng());
        driver.negotiate(features);
        assert_eq!(driver.get(0x70), Status::ACKNOWLEDGE | Status::DRIVER, "{features:#x}");
        assert_eq!(driver.mmio.metrics().features_refused.get(), 1);
    }
}

#[test]
fn status_goes_forward_in_order_or_to_zero() {
    let driver = Driver::new(rng());
    for wrong in [Status::DRIVER, Status::DRIVER_OK, Status::FEATURES_OK, 16, 1 << 20] {
        driver.set(0x70, wrong);
        assert_eq!(driver.get(0x70), 0, "{wrong}");
    }
    driver.set(0x70, 3);
    driver.set(0x70, 1);
    assert_eq!(driver.get(0x70), 3, "no bit is cleared");
    driver.set(0x70, 3 | Status::DRIVER_OK);
    assert_eq!(driver.get(0x70), 3, "features come first");
    assert_eq!(driver.mmio.metrics().bad_status_writes.get(), 7);
}

#[test]
fn queues_that_cannot_be_need_a_reset_and_then_all_is_well() {
    let good = rings(0);
    let bad = [
        (0, good),
        (3, good),
        (65, good),
        (128, good),
        (0x1_0010, good),
        (16, Rings { table: good.table + 8, ..good }),
        (16, Rings { avail: good.avail + 1, ..good }),
        (16, Rings { used: good.used + 2, ..good }),
        (16, Rings { table: RAM - 128, ..good }),
        (16, Rings { avail: RAM, ..good }),
        (16, Rings { used: u64::MAX - 3, ..good }),
        (16, Rings { avail: 0, ..good }),
    ];
    let mut driver = Driver::new(rng());
    for (size, at) in bad {
        driver.negotiate(V1);
        driver.set_up_queue(0, size, at);
        driver.set(0x70, 15);
        assert_eq!(driver.get(0x70), 15 | Status::NEEDS_RESET, "{size} {at:x?}");
        assert_eq!(driver.interrupts(), (1, 2));
        driver.kick(0);
        driver.set(0x70, 0);
    }
    assert_eq!(driver.mmio.metrics().activations_refused.get(), bad.len() as u64);
    driver.start(V1, 1);
    assert!(works(&mut driver));
}

#[test]
fn writes_of_wrong_width_place_or_time_are_counted_and_ignored() {
    let mut driver = Driver::started(rng(), V1, 1);
    let bad = || driver.mmio.metrics().bad_register_writes.get();
    driver.mmio.write(0x100, &[0; 3]);
    driver.mmio.write(0x70, &[0]);
    driver.mmio.write(0x70, &[]);
    driver.mmio.write(0x00, &[0; 4]);
    assert_eq!(bad(), 4);
    driver.set(0x38, 8);
    driver.set(0x80, 8);
    driver.set(0x44, 1);
    driver.set(0x20, 0);
    assert_eq!(bad(), 8, "a live device is not set up anew");
    driver.set(0x50, 1);
    driver.set(0x50, u32::MAX);
    assert_eq!(driver.mmio.metrics().bad_kicks.get(), 2);
    assert!(works(&mut driver));
}

#[test]
fn rings_that_make_no_sense_need_a_reset() {
    let breakages: [fn(&mut Driver); 6] = [
        |driver| {
            // Two descriptors that follow each other for ever.
            driver.describe(0, 0, Descriptor::new(BUFFERS, 8, 3, 1));
            driver.describe(0, 1, Descriptor::new(BUFFERS, 8, 3, 0));
            driver.offer(0, 0);
        },
        |driver| {
            driver.describe(0, 0, Descriptor::new(BUFFERS, 8, 3, SIZE));
            driver.offer(0, 0);
        },
        |driver| driver.offer(0, SIZE),
        |driver| {
            for _ in 0..=SIZE {
                driver.offer(0, 0);
            }
        },
        |driver| {
            // Indirect tables: nested, and not of whole descriptors.
            driver.describe(0, 0, Descriptor::new(rings(0).table, 16, 4, 0));
            driver.offer(0, 0);
        },
        |driver| {
            driver.describe(0, 0, Descriptor::new(rings(0).table, 17, 4, 0));
            driver.offer(0, 0);
        },
    ];
    let mut driver = Driver::new(rng());
    for (i, breakage) in breakages.iter().enumerate() {
        driver.start(V1, 1);
        breakage(&mut driver);
        driver.kick(0);
        assert_eq!(driver.get(0x70), 15 | Status::NEEDS_RESET, "breakage {i}");
        assert_eq!(driver.interrupts(), (1, 2), "breakage {i}");
        assert_eq!(driver.used(0), [], "breakage {i}");
        driver.kick(0);
        assert_eq!(driver.mmio.metrics().queue_errors.get(), i as u64 + 1, "it is left alone");
        driver.set(0x70, 0);
    }
    driver.start(V1, 1);
    assert!(works(&mut driver));
}

#[test]
fn a_batch_is_one_interrupt_and_none_where_the_driver_wants_none() {
    let mut driver = Driver::started(rng(), V1, 1);
    let batch = |driver: &mut Driver| {
        for _ in 0..8 {
            driver.add(0, &[Buf::In(BUFFERS, 8)]);
        }
        driver.kick(0);
        assert_eq!(driver.used(0).len(), 8);
    };
    batch(&mut driver);
    assert_eq!(driver.interrupts(), (1, 1));
    driver.ram.write_obj(1u16, GuestAddress(rings(0).avail)).expect("flags");
    batch(&mut driver);
    assert_eq!(driver.interrupts(), (0, 0));
    assert_eq!(driver.mmio.metrics().interrupts.get(), 1);
}

#[test]
fn event_indexes_say_when_to_interrupt() {
    let mut driver = Driver::started(rng(), V1 | 1 << VIRTIO_RING_F_EVENT_IDX, 1);
    let used_event = GuestAddress(rings(0).avail + 4 + 2 * u64::from(SIZE));
    driver.ram.write_obj(2u16, used_event).expect("used event");
    let interrupts: Vec<_> = (0..4)
        .map(|_| {
            assert!(works(&mut driver));
            driver.interrupts().0
        })
        .collect();
    assert_eq!(interrupts, [0, 0, 1, 0]);
}

#[test]
fn what_was_offered_before_driver_ok_is_served() {
    let mut driver = Driver::new(rng());
    driver.negotiate(V1);
    driver.set_up_queue(0, SIZE.into(), rings(0));
    driver.add(0, &[Buf::In(BUFFERS, 8)]);
    driver.kick(0);
    assert_eq!(driver.used(0), [], "not live yet");
    driver.set(0x70, 15);
    driver.run();
    assert_eq!(driver.used(0), [(0, 8)]);
}

#[test]
fn a_stopped_queue_is_left_alone() {
    let mut driver = Driver::started(rng(), V1, 1);
    driver.set(0x44, 0);
    driver.add(0, &[Buf::In(BUFFERS, 8)]);
    driver.kick(0);
    assert_eq!((driver.get(0x44), driver.used(0)), (0, vec![]));
}

/// A driver that names one long chain in every entry makes much work of a small ring.
#[test]
fn a_turn_ends_after_a_ring_full_of_descriptors() {
    let mut driver = Driver::started(rng(), V1, 1);
    let head = driver.add(0, &[Buf::In(BUFFERS, 1); SIZE as usize]);
    for _ in 1..SIZE {
        driver.offer(0, head);
    }
    driver.set(0x50, 0);
    driver.turn();
    assert_eq!(driver.used(0).len(), 1);
    driver.run();
    assert_eq!(driver.used(0).len(), usize::from(SIZE) - 1, "the rest gets its turns");
}

/// Counts the lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<AtomicU64>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// A guest that resets a device again and again, and breaks it each time in both ways that are logged.
#[test]
fn a_guest_cannot_make_the_log_grow() {
    const ROUNDS: u64 = 1000;
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || {
        let mut driver = Driver::new(rng());
        for _ in 0..ROUNDS {
            driver.negotiate(V1);
            driver.set_up_queue(0, SIZE.into(), Rings { table: RAM, ..rings(0) });
            driver.set(0x70, 15);
            driver.set(0x70, 0);

            driver.start(V1, 1);
            driver.offer(0, u16::MAX);
            driver.kick(0);
            driver.set(0x70, 0);
        }
        let metrics = driver.mmio.metrics();
        assert_eq!((metrics.activations_refused.get(), metrics.queue_errors.get()), (ROUNDS, ROUNDS));
    });
    let lines = lines.0.load(Ordering::Relaxed);
    // 1, 2, 4, … 512 of each.
    assert_eq!(lines, 20, "{lines} lines for {ROUNDS} resets");
}
