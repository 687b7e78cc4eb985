//! Up to transmission, and requests that make no sense.

use super::*;

#[test]
fn options_are_answered_each_in_its_way() {
    let fake = fake();
    let mut client = Client::greeted(&fake, 1);
    client.option(99, b"what is this");
    assert_eq!(client.answer().0, ReplyType::ErrUnsupported as u32);
    client.option(OptionCode::List as u32, &[]);
    assert_eq!(client.answer(), (ReplyType::Server as u32, b"\0\0\0\x04swapa line".to_vec()));
    assert_eq!(client.answer(), (ReplyType::Ack as u32, vec![]));
    client.option(OptionCode::List as u32, b"data");
    assert_eq!(client.answer().0, ReplyType::ErrInvalid as u32);
    client.option(OptionCode::Info as u32, &info("other guest", &[]));
    assert_eq!(client.answer().0, ReplyType::ErrUnknown as u32);
    client.option(OptionCode::Go as u32, &info("swap", &[])[..7]);
    assert_eq!(client.answer().0, ReplyType::ErrInvalid as u32);
    client.option(OptionCode::Go as u32, &vec![0; 100_000]);
    assert_eq!(client.answer().0, ReplyType::ErrTooBig as u32);
    client.option(OptionCode::Info as u32, &info("swap", &[InfoType::Description, InfoType::Name]));
    let answers: Vec<_> = (0..5).map(|_| client.answer()).collect();
    assert!(answers.contains(&(ReplyType::Info as u32, b"\0\x01swap".to_vec())));
    assert!(answers.contains(&(ReplyType::Info as u32, b"\0\x02a line".to_vec())));
    client.option(OptionCode::Abort as u32, &[]);
    assert_eq!(client.answer().0, ReplyType::Ack as u32);
    assert!(client.has_hung_up());
    assert_eq!(fake.1.snapshot(), NbdStats { connections: 1, refused: 5, ..NbdStats::default() });
}

#[test]
fn the_old_way_to_choose_an_export_works_with_and_without_zeroes() {
    for no_zeroes in [false, true] {
        let fake = fake();
        let mut client = Client::new(&fake, 1);
        client.take(18);
        client.say((1 | u32::from(no_zeroes) << 1).to_be_bytes());
        client.option(OptionCode::ExportName as u32, b"swap");
        assert_eq!(client.take(8), (PAGES * 4096).to_be_bytes());
        client.take(2 + if no_zeroes { 0 } else { 124 });
        client.request(Command::Flush, 7, 0..0);
        assert_eq!(client.simple(), (7, None));
    }
    let mut client = Client::greeted(&fake(), 1);
    client.option(OptionCode::ExportName as u32, b"other guest");
    assert!(client.has_hung_up());
}

#[test]
fn nonsense_instead_of_a_handshake_is_hung_up_on() {
    for nonsense in [&b"GET / HTTP/1.1\r\n"[..], &[0; 64], &[0xFF; 64]] {
        let fake = fake();
        let mut client = Client::new(&fake, 1);
        client.say(nonsense);
        assert!(client.has_hung_up());
        assert_eq!(fake.1.snapshot().malformed, 1);
    }
    let fake = fake();
    let mut client = Client::greeted(&fake, 1);
    client.say([7; 16]);
    assert!(client.has_hung_up());
}

#[test]
fn requests_that_make_no_sense_are_refused_and_the_connection_goes_on() {
    refuses(false);
    refuses(true);
}

fn refuses(structured: bool) {
    let fake = fake();
    let mut client = Client::connected(&fake, 1, structured);
    let refused = |client: &mut Client, request: Request, data: usize| {
        client.say(RequestHeader::new(&request).as_bytes());
        client.settle();
        let piece = vec![1; 1 << 20];
        for at in (0..data).step_by(piece.len()) {
            let piece = &piece[..piece.len().min(data - at)];
            assert_eq!(client.session.receive(piece), piece.len());
        }
        if structured && request.command == Some(Command::Read) {
            let (flags, kind, cookie, data) = client.chunk();
            assert_eq!((flags, kind), (ChunkFlags::DONE, ChunkType::Error as u16));
            assert_eq!(cookie, request.cookie);
            let (code, _) = data.split_first_chunk::<4>().unwrap();
            return NbdError::new(u32::from_be_bytes(*code)).unwrap();
        }
        let (cookie, error) = client.simple();
        assert_eq!(cookie, request.cookie);
        error.unwrap()
    };
    let read = Request {
        command: Some(Command::Read),
        flags: CommandFlags::empty(),
        cookie: 5,
        offset: 0,
        len: 4096,
    };
    let write = Request { command: Some(Command::Write), ..read };
    let end = PAGES * 4096;
    assert_eq!(refused(&mut client, Request { offset: 512, ..read }, 0), NbdError::Invalid);
    assert_eq!(refused(&mut client, Request { len: 0, ..read }, 0), NbdError::Invalid);
    assert_eq!(refused(&mut client, Request { len: u32::MAX, ..read }, 0), NbdError::Invalid);
    assert_eq!(refused(&mut client, Request { len: MAX_PAYLOAD + 4096, ..read }, 0), NbdError::Invalid);
    // 4 GiB less a page, which is all that a length can say of pages.
    let longest = u32::MAX - 4095;
    assert_eq!(refused(&mut client, Request { len: longest, ..read }, 0), NbdError::Invalid);
    assert_eq!(refused(&mut client, Request { len: longest, ..write }, longest as usize), NbdError::Invalid);
    let trim = Request { command: Some(Command::Trim), len: longest, ..read };
    assert_eq!(refused(&mut client, trim, 0), NbdError::Invalid);
    assert_eq!(refused(&mut client, Request { offset: end, ..read }, 0), NbdError::Invalid);
    assert_eq!(refused(&mut client, Request { offset: u64::MAX - 4095, ..read }, 0), NbdError::Invalid);
    assert_eq!(refused(&mut client, Request { command: None, ..read }, 0), NbdError::Invalid);
    let df = Request { flags: CommandFlags::DF, len: 65 * 4096, ..read };
    let error = if structured { NbdError::Overflow } else { NbdError::Invalid };
    assert_eq!(refused(&mut client, df, 0), error);
    assert_eq!(
        refused(&mut client, Request { offset: end - 4096, len: 8192, ..write }, 8192),
        NbdError::NoSpace
    );
    assert_eq!(refused(&mut client, Request { len: 100, ..write }, 100), NbdError::Invalid);
    let too_long = Request { len: MAX_PAYLOAD + 4096, ..write };
    assert_eq!(refused(&mut client, too_long, too_long.len as usize), NbdError::Invalid);
    assert_eq!(fake.1.snapshot().refused, 14);
    client.request(Command::Write, 9, 0..1);
    client.say(page(1));
    assert_eq!(client.simple(), (9, None));
    assert!(fake.0.borrow().pages[&0] == page(1));
    client.say([7; 28]);
    assert!(client.has_hung_up());
    assert_eq!(fake.1.snapshot().malformed, 1);
}
