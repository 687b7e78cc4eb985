//! Generic netlink: commands to a family of the kernel, known by name.
//!
//! ```text
//! length │ type: family │ flags │ sequence │ port │ command │ version │ 0 0 │ attributes      native endian
//!        └─────────── nlmsghdr, 16 bytes ─────────┘ genlmsghdr, 4 bytes ────┘
//! attribute: length │ type │ value, padded to 4 bytes
//! ```
//! Every command is acknowledged: the kernel's answer, if it has one, comes before that.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;

/// `NLMSG_ERROR`: an acknowledgement, with 0 or a negative errno.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST_WITH_ACK: u16 = 1 | 4;
/// `NLA_F_NESTED`, and what is left of a type without flags.
const NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = (1 << 14) - 1;

/// The family that knows all families (`GENL_ID_CTRL`), its command and its attributes.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// The kernel's answer is waited for this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Attributes of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// One more, at the end.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// One that holds others.
    pub(crate) fn nested(self, kind: u16, inner: &Attributes) -> Self {
        self.with(kind | NESTED, &inner.0)
    }

    /// The value of the first of a type.
    pub(crate) fn get(&self, wanted: u16) -> Option<&[u8]> {
        let mut rest = self.0.as_slice();
        loop {
            let length = usize::from(u16_at(rest, 0)?);
            let value = rest.get(ATTRIBUTE_HEADER..length)?;
            if u16_at(rest, 2)? & TYPE_MASK == wanted {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
    }
}

/// A socket and the number of a family.
#[derive(Debug)]
pub(crate) struct Family {
    socket: OwnedFd,
    id: u16,
}

impl Family {
    /// Asks the kernel for a family.
    pub(crate) fn find(name: &str) -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::GENERIC),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        let mut family = Self { socket, id: CONTROL };
        let name = [name.as_bytes(), b"\0"].concat();
        let found = family.command(GET_FAMILY, &Attributes::default().with(FAMILY_NAME, &name))?;
        let id = found.get(FAMILY_ID).and_then(|value| u16_at(value, 0));
        family.id = id.ok_or_else(|| io::Error::other("the kernel does not tell the family's number"))?;
        Ok(family)
    }

    /// Sends a command; gives the attributes of the kernel's answer, none where it only acknowledges.
    pub(crate) fn command(&self, command: u8, attributes: &Attributes) -> io::Result<Attributes> {
        send(&self.socket, &message(self.id, command, attributes), SendFlags::empty())?;
        let mut answer = Attributes::default();
        loop {
            let mut buffer = [0; 8192];
            let (_, length) = recv(&self.socket, &mut buffer, RecvFlags::empty())?;
            if let Some(end) = take(buffer.get(..length).unwrap_or_default(), &mut answer) {
                return end.map(|()| answer);
            }
        }
    }
}

fn message(family: u16, command: u8, attributes: &Attributes) -> Vec<u8> {
    let length = HEADER + GENERIC_HEADER + attributes.0.len();
    let mut bytes = u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
    bytes.extend(family.to_ne_bytes());
    bytes.extend(REQUEST_WITH_ACK.to_ne_bytes());
    // Sequence and port: one socket, one command at a time.
    bytes.extend([0; 8]);
    bytes.extend([command, 1, 0, 0]);
    bytes.extend(&attributes.0);
    bytes
}

/// Reads the messages of one datagram; the acknowledgement is the end.
fn take(mut rest: &[u8], answer: &mut Attributes) -> Option<io::Result<()>> {
    while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
        let length = (length as usize).max(HEADER);
        let Some(body) = rest.get(HEADER..length) else { break };
        if kind == ERROR {
            return Some(match u32_at(body, 0).map_or(0, u32::cast_signed) {
                0 => Ok(()),
                errno => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
            });
        }
        answer.0 = body.get(GENERIC_HEADER..).unwrap_or_default().to_vec();
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again_inside_others_too() {
        let inner = Attributes::default().with(1, &7_u32.to_ne_bytes());
        let all = Attributes::default().with(3, b"abc").nested(5, &inner).with(4, &[9]);
        assert_eq!(all.0.len(), 8 + 12 + 8);
        assert_eq!(all.get(3), Some(b"abc".as_slice()));
        assert_eq!(all.get(5), Some(inner.0.as_slice()));
        assert_eq!(all.get(4), Some([9].as_slice()));
        assert_eq!(all.get(6), None);
    }

    #[test]
    fn an_answer_ends_with_the_acknowledgement_and_an_error_is_the_kernels() {
        let attributes = Attributes::default().with(1, &42_u16.to_ne_bytes());
        let acknowledged = |errno: i32| {
            let mut bytes = message(ERROR, 0, &Attributes::default());
            bytes[16..20].copy_from_slice(&errno.to_ne_bytes());
            bytes
        };
        let mut answer = Attributes::default();
        assert!(take(&message(30, 1, &attributes), &mut answer).is_none(), "more is to come");
        assert_eq!(answer, attributes);
        assert!(matches!(take(&acknowledged(0), &mut answer), Some(Ok(()))));
        let both = [message(30, 1, &attributes), acknowledged(-22)].concat();
        let error = take(&both, &mut answer).and_then(Result::err).expect("an error");
        assert_eq!(error.raw_os_error(), Some(22));
        assert!(take(&[1, 0, 0, 0, 2, 0], &mut answer).is_none(), "cut off");
    }

    #[test]
    fn the_kernel_knows_the_family_that_knows_all_and_no_other_of_a_wrong_name() {
        assert_eq!(Family::find("nlctrl").map(|family| family.id).ok(), Some(CONTROL));
        assert!(Family::find("no such family").is_err());
    }
}
