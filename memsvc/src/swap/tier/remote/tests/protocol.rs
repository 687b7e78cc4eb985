//! The client as a state machine, against our own server: bytes are cut anywhere, and connections lost
//! anywhere. Other servers say what they should not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use super::super::broken::Broken;
use super::super::client::Client;
use super::super::requests::DEPTH;
use super::*;
use crate::guard::Guard;
use crate::swap::nbd::*;
use crate::swap::{Codec, Connection, Swap, SwapConfig, Waker};

const PLACES: u64 = 64;
const BYTES: u64 = PLACES * FRAME_SIZE as u64;

/// A client and our own server; bytes go in pieces of random length.
struct Wire {
    client: Client,
    swap: Swap,
    server: Connection,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    random: fastrand::Rng,
}

impl Wire {
    fn new(seed: u64) -> Self {
        let config = SwapConfig {
            name: "swap".into(),
            bytes: BYTES,
            memory: BYTES * 2,
            codec: Codec::None,
            tiers: vec![],
        };
        let swap = Swap::standalone(&config, &Guard::new(|why| panic!("{why}"))).unwrap();
        let mut client = Client::new("swap");
        client.need(PLACES);
        let server = swap.connect(&Arc::new(Waker::new().unwrap()));
        let random = fastrand::Rng::with_seed(seed);
        Self { client, server, swap, to_server: Vec::new(), to_client: Vec::new(), random }
    }

    /// Moves some bytes, everywhere.
    fn step(&mut self) {
        let mut room = vec![0; self.random.usize(1..6000)];
        let sent = self.client.send(&mut room);
        self.to_server.extend_from_slice(&room[..sent]);
        let taken = self.server.receive(&self.to_server);
        self.to_server.drain(..taken);
        let sent = self.server.send(&mut room);
        self.to_client.extend_from_slice(&room[..sent]);
        let now = self.random.usize(..=self.to_client.len());
        self.client.receive(&self.to_client[..now]).unwrap();
        self.to_client.drain(..now);
    }

    /// The connection is lost, with what was on its way.
    fn cut(&mut self) {
        self.client.restart();
        self.server = self.swap.connect(&Arc::new(Waker::new().unwrap()));
        self.to_server.clear();
        self.to_client.clear();
    }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each operation ends once, reads bring what was written last, however often the connection is lost.
    #[test]
    fn what_is_asked_is_done_once_or_as_good_as_once(seed: u64, cuts in 0..4_u32) {
        let mut wire = Wire::new(seed);
        let mut stored: HashMap<u64, u64> = HashMap::new();
        let mut under_way: HashMap<u64, (u64, u64)> = HashMap::new();
        let mut random = fastrand::Rng::with_seed(seed ^ 1);
        let (mut token, mut steps) = (0, 0);
        while token < 200 || !under_way.is_empty() {
            let place = random.u64(..PLACES);
            let is_free = !under_way.values().any(|(busy, _)| *busy == place);
            if token < 200 && under_way.len() < DEPTH && is_free {
                token += 1;
                let op = match random.u8(..8) {
                    0 => Op::Discard { places: place..place + 1 },
                    1..4 => read(place),
                    _ => write(place, token),
                };
                under_way.insert(token, (place, token));
                wire.client.submit(token, op, later());
            }
            if cuts > 0 && random.u32(..200) < cuts {
                wire.cut();
            }
            wire.step();
            while let Some(done) = wire.client.take_ended() {
                let (place, version) = under_way.remove(&done.token).expect("it ends once");
                prop_assert_eq!(done.result, Ok(()));
                match &done.op {
                    Op::Write { .. } => _ = stored.insert(place, version),
                    Op::Discard { .. } => _ = stored.remove(&place),
                    Op::Read { .. } => {
                        let expected = stored.get(&place).map(|version| block(place, *version));
                        let expected = expected.unwrap_or_else(|| Box::new(Block([0; FRAME_SIZE])));
                        prop_assert!(is(&done, &expected), "place {} at {:?}", place, stored.get(&place));
                    }
                }
            }
            steps += 1;
            prop_assert!(steps < 1_000_000, "{} operations never end", under_way.len());
        }
        prop_assert!(wire.client.is_served(true) || cuts > 0);
    }

    /// A server may say anything at any time: no operation is lost or ends twice, and nothing grows.
    #[test]
    fn anything_may_be_answered(
        is_greeted: bool,
        said in prop::collection::vec(said(), 0..40),
        piece in 1..9000_usize,
    ) {
        let mut client = Client::new("swap");
        let mut answer = vec![0; 3 * FRAME_SIZE];
        if is_greeted {
            client.receive(&greeting(BYTES, FLAGS, &[])).unwrap();
            client.need(PLACES);
        }
        (0..8).for_each(|token| client.submit(token, if token % 2 == 0 { read(token) } else { write(token, 0) }, later()));
        let mut ended = [0; 8];
        for said in said {
            client.send(&mut answer);
            for piece in said.chunks(piece) {
                if client.receive(piece).is_err() {
                    client.restart();
                }
            }
            while let Some(done) = client.take_ended() {
                ended[done.token as usize] += 1;
            }
        }
        client.end_all(TierError::Away);
        while let Some(done) = client.take_ended() {
            ended[done.token as usize] += 1;
        }
        prop_assert_eq!(ended, [1; 8]);
    }
}

/// Something between noise and sense.
fn said() -> impl Strategy<Value = Vec<u8>> {
    // The cookies of the first round of requests, and some beyond.
    let reply = (1..20_u64, 0..9_u64, prop_oneof![Just(None), Just(Some(NbdError::NoSpace))], any::<bool>());
    let reply = reply.prop_map(|(serial, slot, error, has_data)| {
        let mut said = SimpleReply::new(serial * DEPTH as u64 + slot, error).as_bytes().to_vec();
        said.resize(said.len() + if has_data { FRAME_SIZE } else { 0 }, 7);
        said
    });
    let info = (0..4_u32, 0..60_u32).prop_map(|(kind, len)| {
        let mut said = OptionReplyHeader::new(7, ReplyType::Info, len).as_bytes().to_vec();
        said.extend((0..len).map(|at| if at == 1 { kind as u8 } else { 0 }));
        said
    });
    let noise = prop::collection::vec(any::<u8>(), 0..100);
    prop_oneof![4 => reply, 1 => info, 1 => noise, 1 => Just(greeting(BYTES, FLAGS, &[]))]
}

pub(super) const FLAGS: TransmissionFlags = TransmissionFlags::HAS_FLAGS.union(TransmissionFlags::SEND_TRIM);

fn option_reply(kind: ReplyType, data: &[u8]) -> Vec<u8> {
    let header = OptionReplyHeader::new(OptionCode::Go as u32, kind, data.len() as u32);
    [header.as_bytes(), data].concat()
}

/// All that a server says until transmission.
pub(super) fn greeting(bytes: u64, flags: TransmissionFlags, more: &[u8]) -> Vec<u8> {
    let export = option_reply(ReplyType::Info, &export_info(bytes, flags));
    let greeting = Greeting::new(HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES);
    [greeting.as_bytes(), &export, more, &option_reply(ReplyType::Ack, &[])].concat()
}

/// What a server has said, and why it is of no use.
fn refused(said: &[u8]) -> Broken {
    let mut client = Client::new("swap");
    let mut byte_by_byte = said.iter().map(|byte| client.receive(&[*byte]));
    let why = byte_by_byte.find_map(Result::err).expect("it is refused");
    assert!(!why.to_string().contains('\n'));
    why
}

#[test]
fn servers_that_cannot_be_used_are_told_apart() {
    let read_only = greeting(BYTES, FLAGS | TransmissionFlags::READ_ONLY, &[]);
    assert!(matches!(refused(&read_only), Broken::ReadOnly));
    assert!(matches!(refused(&greeting(4095, FLAGS, &[])), Broken::TooSmall { needed: 1, found: 0 }));
    let mut blocks = block_size_info();
    blocks[2..6].copy_from_slice(&8192_u32.to_be_bytes());
    let blocks = greeting(BYTES, FLAGS, &option_reply(ReplyType::Info, &blocks));
    assert!(matches!(refused(&blocks), Broken::Blocks(8192)));

    let greeted = Greeting::new(HandshakeFlags::FIXED_NEWSTYLE);
    let after = |kind| refused(&[greeted.as_bytes(), &option_reply(kind, b"text")].concat());
    assert!(matches!(after(ReplyType::ErrUnsupported), Broken::NoGo));
    assert!(matches!(after(ReplyType::ErrTlsRequired), Broken::Tls));
    assert!(matches!(after(ReplyType::ErrUnknown), Broken::UnknownExport));
    assert!(matches!(after(ReplyType::ErrShutdown), Broken::ShuttingDown));
    assert!(matches!(after(ReplyType::ErrPolicy), Broken::RefusedExport(0x8000_0002)));
    assert!(matches!(after(ReplyType::Server), Broken::Nonsense(_)));

    assert!(matches!(refused(Greeting::new(HandshakeFlags::NO_ZEROES).as_bytes()), Broken::NotNbd));
    assert!(matches!(refused(b"SSH-2.0-OpenSSH_9.2p1 Debian"), Broken::NotNbd));
    let no_size = [greeted.as_bytes(), &option_reply(ReplyType::Ack, &[])].concat();
    assert!(matches!(refused(&no_size), Broken::Nonsense(_)));
    let long = option_reply(ReplyType::Info, &[9; 60_000]);
    assert!(matches!(
        refused(&greeting(BYTES, FLAGS, &[&long[..], &long[..]].concat())),
        Broken::Nonsense(_)
    ));
}

#[test]
fn names_and_texts_of_an_export_do_no_harm() {
    let mut client = Client::new("swap");
    let text =
        option_reply(ReplyType::Info, &[&text_info(InfoType::Description)[..], &[b'x'; 4096]].concat());
    client.receive(&greeting(BYTES + 5, FLAGS, &[&text[..], &text[..]].concat())).unwrap();
    assert_eq!(client.export().unwrap().places, PLACES);
}

/// What a client says until transmission: flags, and an option with a name and one wish.
const HELLO: usize = hello_len("swap");

pub(super) const fn hello_len(export: &str) -> usize {
    4 + 16 + 4 + export.len() + 2 + 2
}

/// A client that has sent these operations, and the requests that it has made.
fn asked(flags: TransmissionFlags, bytes: u64, ops: Vec<Op>) -> (Client, Vec<Request>) {
    let mut client = Client::new("swap");
    client.receive(&greeting(bytes, flags, &[])).unwrap();
    client.need(bytes / FRAME_SIZE as u64);
    assert_eq!(client.send(&mut [0; HELLO]), HELLO);
    (0..).zip(ops).for_each(|(token, op)| client.submit(token, op, later()));
    let requests = requests(&mut client);
    (client, requests)
}

fn requests(client: &mut Client) -> Vec<Request> {
    let mut room = vec![0; DEPTH * (FRAME_SIZE + 28)];
    let sent = client.send(&mut room);
    let mut rest = &room[..sent];
    let mut requests = Vec::new();
    while let Ok((header, data)) = RequestHeader::read_from_prefix(rest) {
        let request = header.parse().unwrap();
        rest = &data[if request.command == Some(Command::Write) { FRAME_SIZE } else { 0 }..];
        requests.push(request);
    }
    requests
}

#[test]
fn answers_that_make_no_sense_end_the_connection() {
    let asked = || {
        let (client, requests) = asked(FLAGS, BYTES, vec![read(1), write(2, 2)]);
        (client, requests[1].cookie)
    };
    let (mut client, cookie) = asked();
    assert!(matches!(
        client.receive(SimpleReply::new(cookie + 1, None).as_bytes()),
        Err(Broken::Nonsense(_))
    ));
    let (mut client, cookie) = asked();
    client.receive(SimpleReply::new(cookie, None).as_bytes()).unwrap();
    assert!(matches!(client.receive(SimpleReply::new(cookie, None).as_bytes()), Err(Broken::Nonsense(_))));
    let (mut client, cookie) = asked();
    let chunk = ChunkHeader::new(ChunkFlags::DONE, ChunkType::None, cookie, 0);
    assert!(matches!(client.receive(chunk.as_bytes()), Err(Broken::Nonsense(_))));
    // What belongs to the connection before is not known on this one.
    let (mut client, cookie) = asked();
    client.restart();
    client.receive(&greeting(BYTES, FLAGS, &[])).unwrap();
    assert_eq!(client.send(&mut [0; HELLO]), HELLO);
    assert_eq!(requests(&mut client).len(), 2);
    assert!(matches!(client.receive(SimpleReply::new(cookie, None).as_bytes()), Err(Broken::Nonsense(_))));
}

#[test]
fn errors_of_the_server_are_those_of_one_operation() {
    let (mut client, requests) = asked(FLAGS, BYTES, vec![write(1, 1), write(2, 2), read(3), write(4, 4)]);
    let errors = [Some(NbdError::NoSpace), Some(NbdError::Io), Some(NbdError::Invalid), None];
    for (request, error) in requests.iter().zip(errors) {
        client.receive(SimpleReply::new(request.cookie, error).as_bytes()).unwrap();
    }
    let results: Vec<_> = std::iter::from_fn(|| client.take_ended()).map(|done| done.result).collect();
    let refused = Err(TierError::Refused);
    assert_eq!(results, [Err(TierError::Full), refused, refused, Ok(())]);
    assert!(client.is_served(true));
}

#[test]
fn a_read_is_answered_once_its_data_has_come() {
    let (mut client, requests) = asked(FLAGS, BYTES, vec![read(1)]);
    client.receive(SimpleReply::new(requests[0].cookie, None).as_bytes()).unwrap();
    client.receive(&[7; FRAME_SIZE - 1]).unwrap();
    assert!(!client.is_served(false));
    client.receive(&[7]).unwrap();
    assert!(client.is_served(false));
    assert!(is(&client.take_ended().unwrap(), &Block([7; FRAME_SIZE])));
}

#[test]
fn a_server_is_probed_only_when_nothing_else_is_asked_of_it() {
    let (mut client, first) = asked(FLAGS, BYTES, vec![read(1), write(2, 2)]);
    client.probe(later());
    assert!(requests(&mut client).is_empty());
    for request in first {
        client.probe(later());
        client.receive(SimpleReply::new(request.cookie, Some(NbdError::Io)).as_bytes()).unwrap();
    }
    client.probe(later());
    assert_eq!(requests(&mut client).len(), 1);
    assert!(client.take_ended().is_some() && client.take_ended().is_some());
    assert!(client.take_ended().is_none());
}

#[test]
fn a_server_that_ends_is_asked_again_later() {
    let (mut client, requests) = asked(FLAGS, BYTES, vec![write(1, 1)]);
    let reply = SimpleReply::new(requests[0].cookie, Some(NbdError::Shutdown));
    assert!(matches!(client.receive(reply.as_bytes()), Err(Broken::ShuttingDown)));
    assert_eq!(client.restart(), 1);
    assert!(client.take_ended().is_none());
}

#[test]
fn long_discards_go_in_pieces_and_none_where_there_is_no_trim() {
    let places = (5 << 30) / FRAME_SIZE as u64;
    let discard = || vec![Op::Discard { places: 1..places }];
    let (mut client, first) = asked(FLAGS, 5 << 30, discard());
    let (mut next, mut pieces) = (FRAME_SIZE as u64, 0);
    let mut trims = first;
    while let [trim] = trims[..] {
        assert_eq!((trim.command, trim.offset), (Some(Command::Trim), next));
        next += u64::from(trim.len);
        pieces += 1;
        client.receive(SimpleReply::new(trim.cookie, None).as_bytes()).unwrap();
        trims = requests(&mut client);
    }
    assert_eq!((next, pieces), (5 << 30, 5));
    assert_eq!(client.take_ended().map(|done| done.result), Some(Ok(())));

    let (mut client, trims) = asked(TransmissionFlags::HAS_FLAGS, 5 << 30, discard());
    assert!(trims.is_empty());
    assert_eq!(client.take_ended().map(|done| done.result), Some(Ok(())));
}

#[test]
fn what_was_sent_and_may_come_late_is_not_refused() {
    let discard = |place| Op::Discard { places: place..place + 1 };
    let (mut client, requests) = asked(FLAGS, BYTES, vec![read(1), write(2, 2), discard(3)]);
    assert_eq!(requests.len(), 3);
    client.restart();
    // The last one may be another try.
    (3..).zip([read(4), write(5, 5), discard(6)]).for_each(|(token, op)| client.submit(token, op, later()));
    client.end_all(TierError::Refused);
    let results: Vec<_> = std::iter::from_fn(|| client.take_ended()).map(|done| done.result).collect();
    let (refused, away) = (Err(TierError::Refused), Err(TierError::Away));
    assert_eq!(results, [refused, away, away, refused, refused, away]);
}

#[test]
fn a_discard_that_was_sent_is_not_done_by_a_server_without_trim() {
    let (mut client, trims) = asked(FLAGS, BYTES, vec![Op::Discard { places: 1..2 }]);
    assert_eq!(trims.len(), 1);
    client.restart();
    client.submit(1, Op::Discard { places: 3..4 }, later());
    client.receive(&greeting(BYTES, TransmissionFlags::HAS_FLAGS, &[])).unwrap();
    assert_eq!(client.send(&mut [0; HELLO]), HELLO);
    assert!(requests(&mut client).is_empty());
    let results: Vec<_> = std::iter::from_fn(|| client.take_ended()).map(|done| done.result).collect();
    assert_eq!(results, [Err(TierError::Away), Ok(())]);
}

#[test]
fn places_that_are_not_there_are_refused_here() {
    let ops = vec![read(PLACES), write(u64::MAX, 0), Op::Discard { places: 0..PLACES + 1 }];
    let (mut client, requests) = asked(FLAGS, BYTES, ops);
    assert!(requests.is_empty());
    let results: Vec<_> = std::iter::from_fn(|| client.take_ended()).map(|done| done.result).collect();
    assert_eq!(results, [Err(TierError::Refused); 3]);
}
