//! Puts kernel, initrd and command line into guest memory.
//!
//! Two kinds of files are known by what they hold, not by their name: a bzImage (entered in 64-bit
//! mode with a zero page) and an ELF file with a PVH note (entered in 32-bit mode with a start info).
//! Files are read straight into guest memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memsvc::RegionSpec;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{bzimage, layout, pvh};

/// What to boot.
#[derive(Clone, Debug)]
pub struct BootSource<'a> {
    /// Kernel file.
    pub kernel: &'a Path,
    /// Initial RAM disk.
    pub initrd: Option<&'a Path>,
    /// Kernel command line.
    pub cmdline: &'a str,
}

/// How the first CPU enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 64-bit boot protocol: long mode, RSI holds the zero page.
    Linux64(u64),
    /// PVH: 32-bit protected mode without paging, EBX holds the start info.
    Pvh(u64),
}

/// Why a guest cannot be loaded. `path` is the file that is meant.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be opened.
    #[error("cannot open the {what} {path}; check the path and its permissions")]
    Open {
        /// Kernel or initrd.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a plain file.
    #[error("the {what} {path} is not a regular file")]
    NotAFile {
        /// Kernel or initrd.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read the {what} {path} into guest memory")]
    Read {
        /// Kernel or initrd.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Neither of the known kinds.
    #[error("{path} is not a kernel: it is neither a bzImage nor an ELF file with a PVH entry")]
    NotAKernel {
        /// The file.
        path: PathBuf,
    },
    /// A kernel of a kind that cannot be booted.
    #[error("{path} cannot be booted: {why}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is missing.
        why: &'static str,
    },
    /// The file ends early.
    #[error("the kernel {path} is truncated: it needs {need} bytes and has {have}; copy it again")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that its headers speak of.
        need: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// The kernel does not fit.
    #[error(
        "the kernel {path} needs {need_mib} MiB of guest memory below 4 GiB and there are {have_mib}; give the guest more memory"
    )]
    KernelTooBig {
        /// The file.
        path: PathBuf,
        /// MiB needed.
        need_mib: u64,
        /// MiB there.
        have_mib: u64,
    },
    /// The initrd is empty.
    #[error("the initrd {path} is empty")]
    EmptyInitrd {
        /// The file.
        path: PathBuf,
    },
    /// The initrd does not fit beside the kernel.
    #[error("the initrd {path} of {size_mib} MiB does not fit beside the kernel; give the guest more memory")]
    InitrdTooBig {
        /// The file.
        path: PathBuf,
        /// Its size.
        size_mib: u64,
    },
    /// The command line is too long.
    #[error("the kernel command line has {have} bytes and the kernel takes {max}; shorten it")]
    CmdlineTooLong {
        /// Its length.
        have: usize,
        /// What the kernel takes.
        max: usize,
    },
    /// The command line holds what it cannot.
    #[error("the kernel command line must not hold a zero byte or a line break")]
    CmdlineBytes,
    /// A write to guest memory failed: the layout and the regions disagree.
    #[error("cannot write boot data to guest memory at {addr:#x}")]
    Write {
        /// Guest physical address.
        addr: u64,
        /// Why.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
}

/// A range of guest physical memory that holds the initrd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd {
    /// First address.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
}

/// A file to be loaded: open, a regular file, its length known.
#[derive(Debug)]
pub(super) struct Image<'a> {
    pub(super) what: &'static str,
    pub(super) path: &'a Path,
    pub(super) file: File,
    pub(super) len: u64,
}

impl<'a> Image<'a> {
    fn open(what: &'static str, path: &'a Path) -> Result<Self, LoadError> {
        let opened = |source| LoadError::Open { what, path: path.into(), source };
        let file = File::open(path).map_err(opened)?;
        let meta = file.metadata().map_err(opened)?;
        if !meta.is_file() {
            return Err(LoadError::NotAFile { what, path: path.into() });
        }
        Ok(Self { what, path, file, len: meta.len() })
    }

    /// Reads `buf.len()` bytes at `offset` of the file.
    pub(super) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), LoadError> {
        self.file.read_exact_at(buf, offset).map_err(|source| self.read_error(source))
    }

    /// Reads `len` bytes at `offset` of the file to `addr` of the guest.
    pub(super) fn read_to_guest(
        &self,
        memory: &GuestMemoryMmap<()>,
        addr: u64,
        offset: u64,
        len: u64,
    ) -> Result<(), LoadError> {
        use std::io::{Seek, SeekFrom};
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset)).map_err(|source| self.read_error(source))?;
        memory
            .read_exact_volatile_from(GuestAddress(addr), &mut file, len as usize)
            .map_err(|source| self.read_error(io::Error::other(source)))
    }

    fn read_error(&self, source: io::Error) -> LoadError {
        LoadError::Read { what: self.what, path: self.path.into(), source }
    }

    pub(super) fn truncated(&self, need: u64) -> LoadError {
        LoadError::Truncated { path: self.path.into(), need, have: self.len }
    }

    pub(super) fn not_a_kernel(&self) -> LoadError {
        LoadError::NotAKernel { path: self.path.into() }
    }

    pub(super) fn unsupported(&self, why: &'static str) -> LoadError {
        LoadError::Unsupported { path: self.path.into(), why }
    }

    /// Checks that `[.., end)` lies in low RAM.
    pub(super) fn check_fits(&self, end: u64, low_end: u64) -> Result<(), LoadError> {
        if end > low_end {
            return Err(LoadError::KernelTooBig {
                path: self.path.into(),
                need_mib: end.div_ceil(1 << 20),
                have_mib: low_end >> 20,
            });
        }
        Ok(())
    }
}

/// Loads what `source` names into `memory`, whose RAM is `regions`, and says where to enter.
///
/// `rsdp` is the address of the ACPI root pointer.
pub fn load(
    memory: &GuestMemoryMmap<()>,
    regions: &[RegionSpec],
    source: &BootSource<'_>,
    rsdp: u64,
) -> Result<Entry, LoadError> {
    let image = Image::open("kernel", source.kernel)?;
    let initrd = source.initrd.map(|path| Image::open("initrd", path)).transpose()?;
    let mut magic = [0; 4];
    if image.len < 64 {
        return Err(image.not_a_kernel());
    }
    image.read_at(&mut magic, 0)?;
    if magic == *b"\x7fELF" {
        pvh::load(memory, regions, &image, initrd.as_ref(), source.cmdline, rsdp)
    } else {
        bzimage::load(memory, regions, &image, initrd.as_ref(), source.cmdline, rsdp)
    }
}

/// Writes the command line with its final zero; `max` is what the kernel takes without it.
pub(super) fn write_cmdline(
    memory: &GuestMemoryMmap<()>,
    cmdline: &str,
    max: usize,
) -> Result<(), LoadError> {
    if cmdline.len() > max {
        return Err(LoadError::CmdlineTooLong { have: cmdline.len(), max });
    }
    if cmdline.bytes().any(|b| b == 0 || b == b'\n') {
        return Err(LoadError::CmdlineBytes);
    }
    let mut bytes = Vec::with_capacity(cmdline.len() + 1);
    bytes.extend_from_slice(cmdline.as_bytes());
    bytes.push(0);
    write(memory, layout::CMDLINE_ADDR, &bytes)
}

/// Writes `bytes` to guest memory.
pub(super) fn write(memory: &GuestMemoryMmap<()>, addr: u64, bytes: &[u8]) -> Result<(), LoadError> {
    memory.write_slice(bytes, GuestAddress(addr)).map_err(|source| LoadError::Write { addr, source })
}

/// Reads the initrd to the highest place below `limit` (exclusive) and the end of low RAM that lies
/// above `kernel_end`.
pub(super) fn load_initrd(
    memory: &GuestMemoryMmap<()>,
    image: &Image<'_>,
    kernel_end: u64,
    limit: u64,
) -> Result<Initrd, LoadError> {
    if image.len == 0 {
        return Err(LoadError::EmptyInitrd { path: image.path.into() });
    }
    let addr = limit
        .checked_sub(image.len)
        .map(|addr| addr & !0xFFF)
        .filter(|addr| *addr >= kernel_end && image.len <= u64::from(u32::MAX))
        .ok_or_else(|| LoadError::InitrdTooBig {
            path: image.path.into(),
            size_mib: image.len.div_ceil(1 << 20),
        })?;
    image.read_to_guest(memory, addr, 0, image.len)?;
    Ok(Initrd { addr, len: image.len })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::arch::layout::ram_regions;

    fn load_bytes(kernel: &[u8], initrd: Option<&[u8]>, cmdline: &str) -> Result<Entry, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        let kernel_path = dir.path().join("kernel");
        std::fs::write(&kernel_path, kernel).unwrap();
        let initrd_path = dir.path().join("initrd");
        if let Some(bytes) = initrd {
            std::fs::write(&initrd_path, bytes).unwrap();
        }
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), layout::MIN_RAM as usize)]).unwrap();
        let regions = ram_regions(layout::MIN_RAM).unwrap();
        let source =
            BootSource { kernel: &kernel_path, initrd: initrd.map(|_| initrd_path.as_path()), cmdline };
        load(&memory, &regions, &source, layout::RSDP_ADDR)
    }

    /// A bzImage header with a payload of `payload` bytes that needs `init_size` bytes to run.
    fn bzimage(payload: usize, init_size: u32) -> Vec<u8> {
        let mut image = vec![0u8; 1024 + payload];
        image[0x1F1] = 1;
        image[0x1F4..0x1F8].copy_from_slice(&((payload / 16) as u32).to_le_bytes());
        image[0x200..0x202].copy_from_slice(&[0xEB, 0x6A]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020Fu16.to_le_bytes());
        image[0x211] = 1;
        image[0x22C..0x230].copy_from_slice(&0x7FFF_FFFFu32.to_le_bytes());
        image[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
        image[0x236] = 1;
        image[0x236..0x238].copy_from_slice(&3u16.to_le_bytes());
        image[0x238..0x23C].copy_from_slice(&2047u32.to_le_bytes());
        image[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
        image[0x260..0x264].copy_from_slice(&init_size.to_le_bytes());
        image
    }

    /// An ELF file with one loadable segment at 16 MiB and a PVH note.
    pub(crate) fn elf(note_owner: &[u8; 4], filesz: u64, memsz: u64) -> Vec<u8> {
        let mut image = vec![0u8; 0x1000];
        image[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        image[16..18].copy_from_slice(&2u16.to_le_bytes());
        image[18..20].copy_from_slice(&62u16.to_le_bytes());
        image[32..40].copy_from_slice(&64u64.to_le_bytes());
        image[54..56].copy_from_slice(&56u16.to_le_bytes());
        image[56..58].copy_from_slice(&2u16.to_le_bytes());
        let mut phdr = |at: usize, kind: u32, off: u64, paddr: u64, filesz: u64, memsz: u64| {
            image[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            image[at + 8..at + 16].copy_from_slice(&off.to_le_bytes());
            image[at + 24..at + 32].copy_from_slice(&paddr.to_le_bytes());
            image[at + 32..at + 40].copy_from_slice(&filesz.to_le_bytes());
            image[at + 40..at + 48].copy_from_slice(&memsz.to_le_bytes());
        };
        phdr(64, 1, 0x800, 0x100_0000, filesz, memsz);
        phdr(120, 4, 0x200, 0, 20, 20);
        image[0x200..0x20C].copy_from_slice(&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        image[0x20C..0x210].copy_from_slice(note_owner);
        image[0x210..0x214].copy_from_slice(&0x100_0040u32.to_le_bytes());
        image
    }

    #[test]
    fn a_bzimage_is_entered_in_64_bit_mode() {
        let entry = load_bytes(&bzimage(4096, 4 << 20), Some(b"initrd"), "console=ttyS0").unwrap();
        assert_eq!(entry, Entry::Linux64(layout::HIGH_MEMORY + 0x200));
    }

    #[test]
    fn an_elf_file_is_entered_where_its_note_says() {
        let entry = load_bytes(&elf(b"Xen\0", 0x800, 0x1000), None, "").unwrap();
        assert_eq!(entry, Entry::Pvh(0x100_0040));
    }

    #[test]
    fn bad_kernels_are_told_apart() {
        assert!(matches!(load_bytes(b"#!/bin/sh\n", None, ""), Err(LoadError::NotAKernel { .. })));
        assert!(matches!(load_bytes(&[b'x'; 4096], None, ""), Err(LoadError::NotAKernel { .. })));
        assert!(matches!(
            load_bytes(&elf(b"GNU\0", 0x800, 0x800), None, ""),
            Err(LoadError::Unsupported { .. })
        ));
        assert!(matches!(
            load_bytes(&bzimage(4096, 4 << 20)[..3000], None, ""),
            Err(LoadError::Truncated { .. })
        ));
        assert!(matches!(
            load_bytes(&elf(b"Xen\0", 0x900, 0x900), None, ""),
            Err(LoadError::Truncated { .. })
        ));
        assert!(matches!(
            load_bytes(&bzimage(4096, 60 << 20), None, ""),
            Err(LoadError::KernelTooBig { need_mib: 76, have_mib: 64, .. })
        ));
        assert!(matches!(
            load_bytes(&elf(b"Xen\0", 0x800, 60 << 20), None, ""),
            Err(LoadError::KernelTooBig { .. })
        ));
    }

    #[test]
    fn an_initrd_or_command_line_that_does_not_fit_is_refused() {
        let kernel = bzimage(4096, 46 << 20);
        assert!(matches!(
            load_bytes(&kernel, Some(&vec![1; 3 << 20]), ""),
            Err(LoadError::InitrdTooBig { size_mib: 3, .. })
        ));
        assert!(matches!(load_bytes(&kernel, Some(b""), ""), Err(LoadError::EmptyInitrd { .. })));
        assert!(load_bytes(&kernel, None, &"a".repeat(2047)).is_ok());
        assert!(matches!(
            load_bytes(&kernel, None, &"a".repeat(2048)),
            Err(LoadError::CmdlineTooLong { have: 2048, max: 2047 })
        ));
        assert!(matches!(load_bytes(&kernel, None, "a\nb"), Err(LoadError::CmdlineBytes)));
    }

    proptest::proptest! {
        /// Headers come from a file that anybody may have written: no bytes make the loader panic.
        #[test]
        fn damaged_headers_never_panic(
            is_elf in proptest::bool::ANY,
            at in 0usize..0x268,
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..9),
        ) {
            let mut image =
                if is_elf { elf(b"Xen\0", 0x800, 0x1000) } else { bzimage(4096, 4 << 20) };
            image[at..at + bytes.len()].copy_from_slice(&bytes);
            let _ = load_bytes(&image, None, "");
        }
    }
}
