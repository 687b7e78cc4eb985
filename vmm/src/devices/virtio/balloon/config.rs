//! Configuration space (`struct virtio_balloon_config`, section 5.5.4): four little-endian words.
//!
//! ```text
//!   0  num_pages              what the host wants           device writes
//!   4  actual                 what the guest says it gave   driver writes
//!   8  free_page_hint_cmd_id  hinting command in force      device writes
//!  12  poison_val             what free pages hold          driver writes
//! ```

/// The four words.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConfigSpace {
    /// Target, in pages.
    pub(super) num_pages: u32,
    /// The guest's own count, in pages; not believed, only shown.
    pub(super) actual: u32,
    /// Hinting command of the host.
    pub(super) hint_command: u32,
    /// Value that the guest fills free pages with.
    pub(super) poison: u32,
}

const LEN: usize = 16;

impl ConfigSpace {
    pub(super) fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let words = [self.num_pages, self.actual, self.hint_command, self.poison];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The driver writes; `false` if any byte is not its to write (then nothing changes).
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> bool {
        let word = match offset {
            4..8 => &mut self.actual,
            12..16 => &mut self.poison,
            _ => return false,
        };
        let start = (offset % 4) as usize;
        let mut bytes = word.to_le_bytes();
        let Some(room) = bytes.get_mut(start..start + data.len()) else {
            return false;
        };
        room.copy_from_slice(data);
        *word = u32::from_le_bytes(bytes);
        true
    }
}
