//! The client's half of the NBD handshake: fixed newstyle, `NBD_OPT_GO`.
//!
//! ```text
//! server ▶ NBDMAGIC IHAVEOPT flags
//! client ▶ flags, then IHAVEOPT GO length { name, which infos }
//! server ▶ reply GO INFO {export}, INFO {block size}, …, ACK      or an error
//! ```
//! After it the socket is the kernel's. Numbers and names are those of the NBD project's `doc/proto.md`.

use std::io::{self, Read, Write};

const MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const IHAVEOPT: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// `NBD_FLAG_FIXED_NEWSTYLE` and `NBD_FLAG_NO_ZEROES`, alike from server and client.
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;

const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
/// Set in all replies that are errors.
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flag: several connections see the same data (`NBD_FLAG_CAN_MULTI_CONN`).
pub const CAN_MULTI_CONN: u16 = 1 << 8;

/// A reply that is longer, or a list of replies that has more, is refused. Names have at most 4096 bytes.
const LONGEST_REPLY: u32 = 8192;
const MOST_REPLIES: usize = 64;

/// What a server says of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its size.
    pub bytes: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Smallest length and alignment of requests; 1 where the server did not say.
    pub smallest: u32,
}

/// Asks for an export. After it, the transmission phase has begun.
///
/// # Errors
/// The server is none, is too old, or refuses; in one sentence.
pub fn go(server: &mut (impl Read + Write), name: &str) -> Result<Export, String> {
    negotiate(server, name).map_err(|error| format!("no NBD export {name:?}: {error}"))
}

fn negotiate(server: &mut (impl Read + Write), name: &str) -> io::Result<Export> {
    let [magic, option] = [u64::from_be_bytes(take(server)?), u64::from_be_bytes(take(server)?)];
    let flags = u16::from_be_bytes(take(server)?);
    if magic != MAGIC || option != IHAVEOPT || flags & FIXED_NEWSTYLE == 0 {
        return Err(refused("it is no NBD server of the fixed newstyle"));
    }
    let mut data = Vec::new();
    data.extend(u32::try_from(name.len()).map_err(io::Error::other)?.to_be_bytes());
    data.extend(name.bytes());
    data.extend([1_u16, INFO_BLOCK_SIZE].into_iter().flat_map(u16::to_be_bytes));
    let mut message = Vec::new();
    message.extend(u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes());
    message.extend(IHAVEOPT.to_be_bytes());
    message.extend(OPT_GO.to_be_bytes());
    message.extend(u32::try_from(data.len()).map_err(io::Error::other)?.to_be_bytes());
    message.extend(data);
    server.write_all(&message)?;
    server.flush()?;

    let (mut found, mut smallest) = (None, 1);
    for _ in 0..MOST_REPLIES {
        let (kind, data) = reply(server)?;
        match (kind, data.as_slice()) {
            (REP_ACK, _) => {
                let (bytes, flags) = found.ok_or_else(|| refused("it did not tell the size"))?;
                return Ok(Export { bytes, flags, smallest });
            }
            (REP_INFO, [info @ .., f1, f0]) if info.len() == 10 && starts(info, INFO_EXPORT) => {
                let size = info.last_chunk::<8>().copied().unwrap_or_default();
                found = Some((u64::from_be_bytes(size), u16::from_be_bytes([*f1, *f0])));
            }
            (REP_INFO, [_, _, a, b, c, d, rest @ ..])
                if rest.len() == 8 && starts(&data, INFO_BLOCK_SIZE) =>
            {
                smallest = u32::from_be_bytes([*a, *b, *c, *d]);
            }
            (REP_INFO, _) => {}
            (kind, text) if kind & REP_ERROR != 0 => {
                let text = String::from_utf8_lossy(text);
                return Err(refused(&format!("it answers with error {}: {text}", kind & !REP_ERROR)));
            }
            (kind, _) => return Err(refused(&format!("its reply has the unknown type {kind}"))),
        }
    }
    Err(refused("it does not come to the end of its replies"))
}

fn starts(data: &[u8], info: u16) -> bool {
    data.starts_with(&info.to_be_bytes())
}

fn reply(server: &mut impl Read) -> io::Result<(u32, Vec<u8>)> {
    let magic = u64::from_be_bytes(take(server)?);
    let [option, kind, length] = [take(server)?, take(server)?, take(server)?].map(u32::from_be_bytes);
    if magic != REPLY_MAGIC || option != OPT_GO || length > LONGEST_REPLY {
        return Err(refused("its reply does not fit what was asked"));
    }
    let mut data = vec![0; length as usize];
    server.read_exact(&mut data)?;
    Ok((kind, data))
}

fn take<const N: usize>(server: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    server.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says what it was told to, and keeps what it hears.
    struct Scripted {
        says: io::Cursor<Vec<u8>>,
        heard: Vec<u8>,
    }

    impl Read for Scripted {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.says.read(buffer)
        }
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn greeting(flags: u16) -> Vec<u8> {
        [b"NBDMAGICIHAVEOPT".as_slice(), &flags.to_be_bytes()].concat()
    }

    fn answer(kind: u32, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).expect("short");
        let head = [OPT_GO, kind, length].map(u32::to_be_bytes).concat();
        [&REPLY_MAGIC.to_be_bytes(), head.as_slice(), data].concat()
    }

    fn export(bytes: u64, flags: u16) -> Vec<u8> {
        answer(REP_INFO, &[&[0, 0], bytes.to_be_bytes().as_slice(), &flags.to_be_bytes()].concat())
    }

    fn sizes(smallest: u32) -> Vec<u8> {
        let sizes = [smallest, 4096, 32 << 20].map(u32::to_be_bytes).concat();
        answer(REP_INFO, &[INFO_BLOCK_SIZE.to_be_bytes().as_slice(), &sizes].concat())
    }

    fn ask(says: &[Vec<u8>]) -> (Result<Export, String>, Vec<u8>) {
        let mut server = Scripted { says: io::Cursor::new(says.concat()), heard: Vec::new() };
        (go(&mut server, "swap"), server.heard)
    }

    #[test]
    fn an_export_is_asked_for_by_name_and_described_in_any_order() {
        let unknown = answer(REP_INFO, &[0, 9, 1]);
        let replies = [sizes(512), unknown, export(1 << 30, CAN_MULTI_CONN | 5), answer(REP_ACK, &[])];
        let (found, heard) = ask(&[greeting(3), replies.concat()]);
        assert_eq!(found, Ok(Export { bytes: 1 << 30, flags: CAN_MULTI_CONN | 5, smallest: 512 }));
        let expected = b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x0c\0\0\0\x04swap\0\x01\0\x03";
        assert_eq!(heard, expected);
    }

    #[test]
    fn a_server_that_refuses_is_quoted_and_one_that_makes_no_sense_is_left() {
        let no = |says: &[Vec<u8>]| ask(says).0.expect_err("it is refused");
        assert!(
            no(&[greeting(1), answer(REP_ERROR | 6, b"no such thing")]).contains("error 6: no such thing")
        );
        assert!(no(&[greeting(0)]).contains("fixed newstyle"));
        assert!(no(&[b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\x01".to_vec()]).contains("fixed newstyle"));
        assert!(no(&[greeting(1), answer(REP_ACK, &[])]).contains("size"));
        assert!(no(&[greeting(1), answer(2, &[])]).contains("unknown type 2"));
        assert!(no(&[greeting(1), answer(REP_INFO, &vec![0; 9000])]).contains("does not fit"));
        assert!(no(&[greeting(1), vec![sizes(1); 100].concat()]).contains("end of its replies"));
        assert!(no(&[greeting(1), export(1, 1)]).contains("export"), "a connection that ends is an error");
    }
}
