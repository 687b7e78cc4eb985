//! Words for the kernel that say where the virtio-mmio devices are, as ACPI says it. A kernel without ACPI knows them by
//! these (`CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`); one with ACPI has the devices already, and refuses the words.

use linux_loader::cmdline::{Cmdline, Error};

use super::layout::{MMIO_LEN, MmioSlot};

/// The command line with a word for each device, in the order of their numbers; all before words for init.
///
/// # Errors
/// The line is none: it has other characters than a kernel takes, or its quotes do not end.
pub fn with_devices(line: &str, devices: &[MmioSlot]) -> Result<String, Error> {
    let mut all = Cmdline::try_from(line, usize::MAX)?;
    for slot in devices {
        let (size, address) = (MMIO_LEN >> 10, slot.addr);
        all.insert_str(format!("virtio_mmio.device={size}K@{address:#x}:{}", slot.gsi))?;
    }
    Ok(all.as_cstring()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::mmio_device;

    #[test]
    fn each_device_has_a_word_before_those_for_init() {
        let devices: Vec<_> = (0..2).filter_map(mmio_device).collect();
        let words = "virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6";
        let with = |line: &str, devices: &[MmioSlot]| with_devices(line, devices).expect("a line");
        assert_eq!(with("quiet", &devices), format!("quiet {words}"));
        assert_eq!(with("quiet -- a -- b", &devices), format!("quiet {words} -- a -- b"));
        assert_eq!(with("quiet --x", &[]), "quiet --x");
        // The kernel takes no mark within quotes.
        let quoted = "foo=\"a -- b\" quiet";
        assert_eq!(with(quoted, &devices), format!("{quoted} {words}"));
    }
}
