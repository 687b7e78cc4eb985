//! Writes the archive format of an initramfs: "newc" cpio.
//!
//! ```text
//! entry = "070701" and 13 numbers of 8 hex digits, name, NUL, padding to 4, data, padding to 4
//! ```
//! (Documentation/driver-api/early-userspace/buffer-format.rst). All entries belong to root.

use std::fmt::Write;

/// File type bits of `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory; its parent must have been added before.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a character device.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// Adds a file that all may read, and run if `executable`.
    pub fn file(&mut self, name: &str, executable: bool, data: &[u8]) {
        self.entry(name, REGULAR | if executable { 0o755 } else { 0o644 }, (0, 0), data);
    }

    /// Ends the archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), data: &[u8]) {
        self.entries += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        // An initramfs holds files far below 4 GiB, which is as much as the format can say.
        let (size, name_size) = (data.len() as u32, name.len() as u32 + 1);
        let numbers = [self.entries, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        let mut header = String::from("070701");
        for number in numbers {
            let _ = write!(header, "{number:08x}");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
        archive.file("init", true, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.get(..6), Some(&b"070701"[..]));
        assert_eq!(bytes.get(14..22), Some(&b"000081ed"[..]), "mode 0100755");
        assert_eq!(bytes.get(54..62), Some(&b"00000005"[..]), "file size");
        assert_eq!(bytes.get(94..102), Some(&b"00000005"[..]), "name size with its NUL");
        assert_eq!(bytes.get(110..115), Some(&b"init\0"[..]));
        assert_eq!(bytes.get(116..121), Some(&b"hello"[..]), "data starts at a multiple of 4");
        assert_eq!(bytes.get(124..130), Some(&b"070701"[..]), "and so does the next entry");
        assert_eq!(bytes.len() % 4, 0);
    }
}
