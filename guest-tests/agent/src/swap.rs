//! Swap on a block device: header, on, off.
//!
//! ```text
//! page 0:  1024 boot bits │ version 1 │ last page │ bad pages 0 │ uuid │ label │ … │ SWAPSPACE2
//! ```
//! as `union swap_header` in the kernel's `include/linux/swap.h` has it.

#![allow(unsafe_code, reason = "swapon(2) and swapoff(2) are called directly")]

use std::ffi::CString;
use std::io::{self, Write};

use guest_agent::{Answer, SwapRequest, pattern};
use rustix::mm::{MlockAllFlags, mlockall};

use crate::{block, nbd_device};

const PAGE: usize = pattern::PAGE;
const VERSION_AT: usize = 1024;
const LAST_PAGE_AT: usize = 1028;
const UUID_AT: usize = 1036;
const MAGIC: &[u8; 10] = b"SWAPSPACE2";
const MAGIC_AT: usize = PAGE - MAGIC.len();

/// Tells the swap areas of this agent from others; one guest has few, and nobody mounts them by it.
const UUID: &[u8; 16] = b"aerostat swap \0\x01";

/// `SWAP_FLAG_DISCARD`: both when turned on and of single clusters.
const DISCARD: libc::c_int = 0x1_0000;

/// Serves one request.
pub(crate) fn serve(request: SwapRequest) -> Result<Answer, String> {
    match request {
        SwapRequest::Connect { server, export, connections } => {
            nbd_device::connect(&server, &export, connections).map(Answer::Connected)
        }
        SwapRequest::Disconnect { device } => nbd_device::disconnect(&device).map(|()| Answer::Done),
        SwapRequest::On { device, discard } => on(&device, discard).map(|()| Answer::Done),
        SwapRequest::Off { device } => {
            let path = path(&device)?;
            // SAFETY: the path lives until the call returns.
            done(unsafe { libc::swapoff(path.as_ptr()) }, "turn swap off on", &device).map(|()| Answer::Done)
        }
    }
}

fn on(device: &str, discard: bool) -> Result<(), String> {
    let known = block::list()?;
    let bytes = known.iter().find(|block| block.name == device).map(|block| block.bytes);
    let bytes = bytes.ok_or_else(|| format!("there is no block device {device}"))?;
    let header = header(bytes).ok_or_else(|| format!("{device} is too small for swap"))?;
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).open(format!("/dev/{device}"))?;
        file.write_all(&header)?;
        file.sync_all()
    };
    write().map_err(|error: io::Error| format!("cannot write the swap header of {device}: {error}"))?;
    // What answers the host is never to wait for a page itself. Hogs do not inherit it.
    mlockall(MlockAllFlags::CURRENT)
        .map_err(|error| format!("cannot lock the agent into memory: {error}"))?;
    let path = path(device)?;
    // SAFETY: the path lives until the call returns.
    done(unsafe { libc::swapon(path.as_ptr(), if discard { DISCARD } else { 0 }) }, "turn swap on on", device)
}

fn path(device: &str) -> Result<CString, String> {
    CString::new(format!("/dev/{device}")).map_err(|_| format!("{device:?} is no name of a device"))
}

fn done(result: libc::c_int, what: &str, device: &str) -> Result<(), String> {
    match result {
        0 => Ok(()),
        _ => Err(format!("cannot {what} /dev/{device}: {}", io::Error::last_os_error())),
    }
}

/// The first page of a swap area of this size; `None` where it would hold no page.
fn header(bytes: u64) -> Option<Vec<u8>> {
    // The kernel's page numbers of swap have 32 bits.
    let last = (bytes / PAGE as u64).min(u32::MAX.into()).checked_sub(1).filter(|last| *last > 0)?;
    let mut page = vec![0; PAGE];
    let mut put = |at: usize, value: &[u8]| {
        page.iter_mut().skip(at).zip(value).for_each(|(to, from)| *to = *from);
    };
    put(VERSION_AT, &1_u32.to_ne_bytes());
    put(LAST_PAGE_AT, &u32::try_from(last).ok()?.to_ne_bytes());
    put(UUID_AT, UUID);
    put(MAGIC_AT, MAGIC);
    Some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_that_of_mkswap() {
        let page = header(64 << 20).expect("64 MiB are enough");
        assert_eq!(page.len(), 4096);
        let number = |at: usize| u32::from_ne_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        assert_eq!((number(1024), number(1028), number(1032)), (1, (64 << 20) / 4096 - 1, 0));
        assert_eq!(&page[4086..], b"SWAPSPACE2");
        assert!(page[..1024].iter().all(|byte| *byte == 0), "boot bits are left alone");
        assert_eq!(header(4096), None, "a header alone is no swap");
        assert_eq!(
            header(u64::MAX).map(|page| page[1028..1032].to_vec()),
            Some(vec![0xfe, 0xff, 0xff, 0xff])
        );
    }
}
