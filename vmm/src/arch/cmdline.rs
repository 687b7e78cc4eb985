//! Words for the kernel that say where the virtio-mmio devices are, as ACPI says it. A kernel without ACPI knows them by
//! these (`CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`); one with ACPI has the devices already, and refuses the words.

use super::layout::{MMIO_LEN, MmioSlot};

/// The mark between words for the kernel and words for init.
const INIT: &str = " -- ";

/// The command line with a word for each device, in the order of their numbers; all before words for init.
pub fn with_devices(line: &str, devices: &[MmioSlot]) -> String {
    let word =
        |slot: &MmioSlot| format!(" virtio_mmio.device={}K@{:#x}:{}", MMIO_LEN >> 10, slot.addr, slot.gsi);
    let words: String = devices.iter().map(word).collect();
    let end = line.find(INIT).unwrap_or(line.len());
    let (kernel, init) = line.split_at(end);
    [kernel, &words, init].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::mmio_device;

    #[test]
    fn each_device_has_a_word_before_those_for_init() {
        let devices: Vec<_> = (0..2).filter_map(mmio_device).collect();
        let words = "virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6";
        assert_eq!(with_devices("quiet", &devices), format!("quiet {words}"));
        assert_eq!(with_devices("quiet -- a -- b", &devices), format!("quiet {words} -- a -- b"));
        assert_eq!(with_devices("quiet --x", &[]), "quiet --x");
    }
}
