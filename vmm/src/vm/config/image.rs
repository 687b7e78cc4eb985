//! Disk images that are not raw, told by their magic: a guest would take the header of such a file for its disk.
//!
//! Nothing reads more of a file than its magic, so a guest that writes one gains nothing. Block devices are not looked at:
//! a loop device is the way to attach a file whose guest has done so.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// The first bytes of files of other forms.
const MAGIC: [(&[u8], &str); 6] = [
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "VMDK"),
    (b"COWD", "VMDK"),
    (b"# Disk DescriptorFile", "VMDK"),
    (VHD, "VHD"),
    (b"vhdxfile", "VHDX"),
];
/// Magic of a VHD: of its footer, whose copy stands in front unless the size is fixed.
const VHD: &[u8] = b"conectix";
/// Bytes of that footer.
const FOOTER: u64 = 512;
/// The longest of all.
const LONGEST: usize = 21;

/// The form of an image that is not raw, as people call it.
pub(super) fn form(file: &File) -> io::Result<Option<&'static str>> {
    let first = read_at(file, 0)?;
    let of = |(magic, form): &(&[u8], &'static str)| first.starts_with(magic).then_some(*form);
    if let Some(form) = MAGIC.iter().find_map(of) {
        return Ok(Some(form));
    }
    let Some(footer) = file.metadata()?.len().checked_sub(FOOTER) else { return Ok(None) };
    Ok(read_at(file, footer)?.starts_with(VHD).then_some("VHD"))
}

/// As many bytes as a magic has at most, or as there are.
fn read_at(file: &File, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = [0; LONGEST];
    let mut length = 0;
    while length < LONGEST {
        match file.read_at(&mut bytes[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes[..length].to_vec())
}

/// The command that makes a raw image of the one at a path, for a shell.
pub(super) fn conversion(image: &Path) -> String {
    let mut raw = image.with_extension("raw");
    if raw == *image {
        raw.as_mut_os_string().push(".raw");
    }
    format!("qemu-img convert -O raw {} {}", quoted(image), quoted(&raw))
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%,=".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form_of(bytes: &[u8]) -> Option<&'static str> {
        let image = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(image.path(), bytes).expect("written");
        form(image.as_file()).expect("read")
    }

    #[test]
    fn each_magic_is_known_where_it_stands() {
        let disk = |offset: usize, magic: &[u8]| {
            let mut disk = vec![0; 4096];
            disk[offset..][..magic.len()].copy_from_slice(magic);
            disk
        };
        for (magic, form) in MAGIC {
            assert_eq!(form_of(&disk(0, magic)), Some(form));
            assert_eq!(form_of(&disk(1, magic)), None);
            assert_eq!(form_of(&magic[..magic.len() - 1]), None);
            assert!(magic.len() <= LONGEST, "{form}");
        }
        assert_eq!(form_of(&disk(4096 - 512, VHD)), Some("VHD"));
        assert_eq!(form_of(&disk(4096 - 511, VHD)), None);
        assert_eq!(form_of(&[]), None);
    }

    #[test]
    fn the_command_can_be_given_to_a_shell() {
        let command = |path: &str| conversion(Path::new(path));
        assert_eq!(command("/a/x.qcow2"), "qemu-img convert -O raw /a/x.qcow2 /a/x.raw");
        assert_eq!(command("x.raw"), "qemu-img convert -O raw x.raw x.raw.raw");
        assert_eq!(command("a b's.vhd"), r"qemu-img convert -O raw 'a b'\''s.vhd' 'a b'\''s.raw'");
    }
}
