//! A driver out of its mind: random registers, random rings, random kicks, at every device.
//!
//! Whatever it does, the device comes to rest, and after a reset an ordinary driver can use it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use memsvc::guard::Guard;
use memsvc::swap::{Codec, Swap, SwapConfig};
use memsvc::{Gfn, Outcome};
use proptest::prelude::*;
use virtio_queue::desc::split::Descriptor;

use super::balloon::{Balloon, BalloonBackend, BalloonConfig};
use super::blk::{BlockBackend, BlockConfig, BlockDevice, CacheType, Engine, SwapDisk, SwapMemory};
use super::net::fake::Fake;
use super::net::{Net, NetConfig};
use super::rate::Limits;
use super::rng::Rng;
use super::testing::{BUFFERS, Buf, Driver, SIZE, V1};
use super::{SharedDevice, VirtioDevice, lock};

/// One thing that the driver does.
#[derive(Clone, Debug)]
enum Act {
    Write { at: u64, data: Vec<u8> },
    Read { at: u64, len: usize },
    Describe { queue: usize, index: u16, address: u64, len: u32, flags: u16, next: u16 },
    Fill { at: u64, bytes: [u8; 32] },
    Offer { queue: usize, head: u16 },
    Chain { queue: usize, buffers: Vec<Buf> },
    Kick { queue: u32 },
    Restart { features: u64, queues: usize },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let queue = 0..5usize;
    let address = prop_oneof![
        4 => (0u64..0x800).prop_map(|offset| BUFFERS + offset),
        2 => (0u64..0x400).prop_map(|page| page * 4096),
        1 => any::<u64>(),
    ];
    let len =
        prop_oneof![Just(0), Just(1), Just(4), Just(10), Just(16), Just(512), 0u32..70_000, any::<u32>()];
    let register =
        prop_oneof![3 => (0u64..0x120 / 4).prop_map(|word| word * 4), 1 => 0u64..0x1000, 1 => any::<u64>()];
    let data = prop_oneof![
        (0u32..20).prop_map(|value| value.to_le_bytes().to_vec()),
        any::<u32>().prop_map(|value| value.to_le_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..9),
    ];
    // Mostly where something is, so that headers and numbers are found.
    let near = prop_oneof![4 => (0u64..8).prop_map(|i| BUFFERS + 32 * i), 1 => address.clone()];
    let buffer = (any::<bool>(), near, len.clone()).prop_map(|(out, at, len)| match out {
        true => Buf::Out(at, len),
        false => Buf::In(at, len),
    });
    let chain = prop::collection::vec(buffer, 1..5).prop_map(|mut buffers| {
        // As the specification wants it: what the device reads comes first.
        buffers.sort_by_key(|buffer| matches!(buffer, Buf::In(..)));
        buffers
    });
    // The shape of a disk request, else chance would hardly ever find one.
    let sectors = prop_oneof![3 => 0u32..4, 1 => Just(8)];
    let shaped = (0u64..8, any::<bool>(), sectors).prop_map(|(i, out, sectors)| {
        let data = match out {
            true => Buf::Out(BUFFERS, 512 * sectors),
            false => Buf::In(BUFFERS, 512 * sectors),
        };
        vec![Buf::Out(BUFFERS + 32 * i, 16), data, Buf::In(BUFFERS + 0x1000, 1)]
    });
    let descriptor = (queue.clone(), 0..SIZE, address, len, 0u16..8, 0..SIZE + 2);
    let act = prop_oneof![
        2 => (register.clone(), data).prop_map(|(at, data)| Act::Write { at, data }),
        1 => (register, 0..9usize).prop_map(|(at, len)| Act::Read { at, len }),
        3 => descriptor.prop_map(|(queue, index, address, len, flags, next)| {
            Act::Describe { queue, index, address, len, flags, next }
        }),
        2 => (queue.clone(), 0..SIZE + 1).prop_map(|(queue, head)| Act::Offer { queue, head }),
        2 => (0u64..0x800, any::<[u8; 32]>())
            .prop_map(|(at, bytes)| Act::Fill { at: BUFFERS + at, bytes }),
        6 => (0u64..8, prop_oneof![0u8..2, 0u8..12], 56u8..72).prop_map(|(i, kind, sector)| {
            // A command, a page number, a disk request near the end: whatever it is to the device.
            let mut bytes = [0; 32];
            bytes[0] = kind;
            bytes[8] = sector;
            Act::Fill { at: BUFFERS + 32 * i, bytes }
        }),
        8 => (0..2usize, shaped).prop_map(|(queue, buffers)| Act::Chain { queue, buffers }),
        12 => (queue, chain).prop_map(|(queue, buffers)| Act::Chain { queue, buffers }),
        8 => (0u32..6).prop_map(|queue| Act::Kick { queue }),
        2 => (any::<u64>(), 0..6usize)
            .prop_map(|(features, queues)| Act::Restart { features, queues }),
        1 => Just(Act::Restart { features: u64::MAX, queues: 5 }),
    ];
    prop::collection::vec(act, 1..80)
}

/// Does all acts, then checks that an ordinary driver can use the device.
fn torment(device: SharedDevice, offered: u64, queues: usize, acts: Vec<Act>, operator: impl Fn()) {
    let mut driver = Driver::new(device);
    driver.start(V1 | offered, queues);
    for act in acts {
        match act {
            Act::Write { at, data } => driver.mmio.write(at, &data),
            Act::Read { at, len } => driver.mmio.page().read(at, &mut vec![0; len]),
            Act::Describe { queue, index, address, len, flags, next } => {
                driver.describe(queue, index, Descriptor::new(address, len, flags, next));
            }
            Act::Fill { at, bytes } => driver.put(at, &bytes),
            Act::Offer { queue, head } => driver.offer(queue, head),
            Act::Chain { queue, buffers } => {
                driver.add(queue, &buffers);
            }
            Act::Kick { queue } => {
                operator();
                driver.kick(queue as usize);
            }
            Act::Restart { features, queues } => {
                driver.set(0x70, 0);
                driver.start(V1 | offered & features, queues);
            }
        }
        driver.run();
    }
    driver.set(0x70, 0);
    driver.start(V1 | offered, queues);
    assert_eq!(driver.get(0x70), 15, "an ordinary driver brings it up again");
}

/// A memory service that takes all and checks nothing: numbers reach it as the guest wrote them.
struct Anything;

impl BalloonBackend for Anything {
    fn inflate(&self, gfns: &[Gfn]) -> Outcome {
        assert!(gfns.len() <= 256);
        Outcome { accepted: u32::MAX, refused: u32::MAX }
    }
    fn deflate(&self, gfns: &[Gfn]) -> Outcome {
        self.inflate(gfns)
    }
    fn report_free(&self, gpa: u64, len: u64) -> Outcome {
        assert_eq!((gpa % 4096, len % 4096), (0, 0));
        Outcome::default()
    }
    fn reset_balloon(&self) {}
}

impl SwapMemory for Anything {
    fn lacks_memory_for(&self, pieces: &mut dyn Iterator<Item = (u64, u64)>) -> bool {
        let (bytes, addresses) = pieces.fold((0, 0), |(bytes, all), (gpa, len)| (bytes + len, all | gpa));
        assert!(bytes <= 4096);
        addresses & 0x4000 != 0
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_balloon_stands_it(acts in acts()) {
        let config = BalloonConfig {
            amount_mib: 1,
            ram_mib: 4,
            deflate_on_oom: true,
            stats_polling_interval_s: 60,
            free_page_hinting: true,
            free_page_reporting: true,
        };
        let balloon = Balloon::new(config, Anything).expect("balloon");
        let (offered, control) = (balloon.features(), Arc::clone(balloon.control()));
        // Refused while no driver is there; otherwise command ids come into the guest's range.
        let operator = || { let _ = control.hinting_start(true); };
        torment(Arc::new(Mutex::new(balloon)), offered, 5, acts, operator);
    }

    #[test]
    fn the_disk_stands_it(acts in acts(), is_async: bool) {
        let mut image = tempfile::NamedTempFile::new().expect("image");
        image.write_all(&[7; 64 * 512]).expect("image");
        let backend = BlockBackend::open(image.path(), false).expect("disk");
        let engine = if is_async { Engine::Async } else { Engine::Sync };
        let config = BlockConfig { cache: CacheType::Unsafe, engine, ..BlockConfig::default() };
        let disk = BlockDevice::new(backend, &config).expect("disk");
        let offered = disk.features();
        torment(Arc::new(Mutex::new(disk)), offered, 1, acts, || ());
        prop_assert_eq!(image.as_file().metadata().expect("image").len(), 64 * 512, "it never grows");
    }

    #[test]
    fn the_swap_disk_stands_it(acts in acts()) {
        let pages = 32;
        let config = SwapConfig {
            name: "swap".into(),
            bytes: pages * 4096,
            memory: pages * 2048,
            codec: Codec::Lz4,
            tiers: vec![],
        };
        let swap = Swap::standalone(&config, &Guard::new(|why| panic!("{why}"))).expect("a swap device");
        let disk = SwapDisk::new(&swap, Anything).expect("disk");
        let offered = disk.features();
        torment(Arc::new(Mutex::new(disk)), offered, 1, acts, || ());
        let stats = swap.stats();
        prop_assert!(stats.store.stored_bytes <= stats.store.limit_bytes && stats.store.lost == 0);
    }

    #[test]
    fn the_entropy_device_stands_it(acts in acts()) {
        let rng = Rng::new(Limits::default()).expect("rng");
        let offered = rng.features();
        torment(Arc::new(Mutex::new(rng)), offered, 1, acts, || ());
    }

    #[test]
    fn the_network_card_stands_it(acts in acts(), echoes: bool, len in 14usize..3000) {
        let fake = Fake::new();
        lock(&fake.state).echoes = echoes;
        let net = Net::new(NetConfig { mtu: Some(1500), ..NetConfig::default() }, fake.clone()).expect("net");
        let offered = net.features();
        let operator = || fake.send([vec![7; len]]);
        torment(Arc::new(Mutex::new(net)), offered, 2, acts, operator);
        let state = lock(&fake.state);
        prop_assert!(state.got.iter().all(|(_, frame)| (14..=65_553).contains(&frame.len())));
    }
}
