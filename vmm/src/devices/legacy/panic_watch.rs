//! Knows a kernel's panic message when it goes by on a console.
//!
//! A guest with `panic=-1` resets at once, which alone looks like a reboot. Lines are watched as they
//! are written; a line is kept up to a bound, of longer ones the start.

const MARK: &[u8] = b"Kernel panic - not syncing: ";
/// Bytes of a line that are looked at: time stamp, CPU, mark and message fit.
const LINE: usize = 512;

/// Watches one console.
#[derive(Debug, Default)]
pub(super) struct PanicWatch {
    line: Vec<u8>,
}

impl PanicWatch {
    /// Takes the next byte; the panic's message, if it ended a line that holds one.
    pub(super) fn next(&mut self, byte: u8) -> Option<String> {
        if byte != b'\n' {
            if self.line.len() < LINE {
                self.line.push(byte);
            }
            return None;
        }
        let found = self.line.windows(MARK.len()).position(|w| w == MARK);
        let message = found.and_then(|at| self.line.get(at + MARK.len()..)).map(printable);
        self.line.clear();
        message
    }
}

/// Guest text that may go to an operator's terminal.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim().chars().map(|c| if c.is_control() { '.' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(text: &[u8]) -> Vec<String> {
        let mut watch = PanicWatch::default();
        text.iter().filter_map(|b| watch.next(*b)).collect()
    }

    #[test]
    fn the_message_is_found_and_cleaned() {
        let text =
            b"[    1.2] Run /init\r\n[    1.3] Kernel panic - not syncing: VFS: \x1b[31mno root\r\nmore\n";
        assert_eq!(watch(text), ["VFS: .[31mno root"]);
    }

    #[test]
    fn talk_of_panics_is_not_one() {
        assert_eq!(watch(b"Kernel panic - not\nsyncing: x\nKernel panic\n"), [""; 0]);
    }

    #[test]
    fn endless_lines_take_no_memory() {
        let mut watch = PanicWatch::default();
        assert!((0..1 << 20).all(|_| watch.next(b'a').is_none()));
        assert!(watch.line.capacity() <= 2 * LINE);
    }
}
