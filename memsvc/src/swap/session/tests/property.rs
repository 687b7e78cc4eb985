//! Properties of a session, for any words of a client, however they are cut.

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Read(Range<u64>),
    Write(u64, Vec<u8>),
    Erase(Range<u64>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = (0..200u64, 1..150u64).prop_map(|(start, len)| start..start + len);
    let op = prop_oneof![
        range.clone().prop_map(Op::Read),
        (0..200u64, prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, pages)| Op::Write(at, pages)),
        range.prop_map(Op::Erase),
    ];
    prop::collection::vec(op, 1..30)
}

proptest! {
    /// However the bytes are cut, a client reads what it wrote.
    #[test]
    fn reads_what_was_written(
        ops in ops(),
        seed: u64,
        structured: bool,
        waits in prop::collection::hash_map(0..300u64, 1..4u32, 0..20),
    ) {
        let fake = fake();
        fake.0.borrow_mut().slow.clone_from(&waits);
        fake.0.borrow_mut().full = waits;
        let mut client = Client::connected(&fake, seed, structured);
        let mut model = HashMap::new();
        for (cookie, op) in (0..).zip(ops) {
            match op {
                Op::Write(at, pages) => {
                    client.request(Command::Write, cookie, at..at + pages.len() as u64);
                    for (at, seed) in (at..).zip(pages) {
                        client.say(page(seed));
                        model.insert(at, page(seed));
                    }
                    prop_assert_eq!(client.simple(), (cookie, None));
                }
                Op::Erase(range) => {
                    client.request(Command::Trim, cookie, range.clone());
                    prop_assert_eq!(client.simple(), (cookie, None));
                    range.for_each(|page| _ = model.remove(&page));
                }
                Op::Read(range) => {
                    client.request(Command::Read, cookie, range.clone());
                    let read = read_reply(&mut client, cookie, &range, structured);
                    for (at, read) in range.zip(read.chunks(4096)) {
                        prop_assert!(read == model.get(&at).copied().unwrap_or([0; 4096]), "page {}", at);
                    }
                }
            }
        }
    }

    /// Whatever comes, the session does not panic, and ends or goes on.
    #[test]
    fn survives_garbage(garbage in prop::collection::vec(any::<u8>(), 0..400), seed: u64, at in 0..3u8) {
        let fake = fake();
        let mut client = match at {
            0 => Client::new(&fake, seed),
            1 => Client::greeted(&fake, seed),
            _ => Client::connected(&fake, seed, true),
        };
        client.say(garbage);
        client.settle();
        prop_assert!(client.got.len() < 1 << 20);
    }

    /// Requests that are nearly right are answered or end the connection.
    #[test]
    fn survives_requests_with_a_byte_changed(byte in 0..28usize, to: u8, seed: u64) {
        let fake = fake();
        let mut client = Client::connected(&fake, seed, false);
        client.request(Command::Write, 1, 5..6);
        client.sent[byte] = to;
        client.say(page(1));
        client.settle();
        prop_assert!(client.session.is_over() || client.sent.is_empty());
    }
}

fn read_reply(client: &mut Client, cookie: u64, range: &Range<u64>, structured: bool) -> Vec<u8> {
    let bytes = ((range.end - range.start) * 4096) as usize;
    if !structured {
        assert_eq!(client.simple(), (cookie, None));
        return client.take(bytes);
    }
    let mut read = vec![0xEE; bytes];
    loop {
        let (flags, kind, of, data) = client.chunk();
        assert_eq!(of, cookie);
        let (offset, data) = data.split_first_chunk::<8>().unwrap();
        let at = (u64::from_be_bytes(*offset) - range.start * 4096) as usize;
        if kind == ChunkType::OffsetHole as u16 {
            let len = u32::from_be_bytes(data.try_into().unwrap()) as usize;
            read[at..at + len].fill(0);
        } else {
            assert_eq!(kind, ChunkType::OffsetData as u16);
            read[at..at + data.len()].copy_from_slice(data);
        }
        if flags.contains(ChunkFlags::DONE) {
            return read;
        }
    }
}
