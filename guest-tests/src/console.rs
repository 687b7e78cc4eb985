//! Reads what a guest's serial port says: keeps all of it, and picks the agent's replies out.

use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use guest_agent::{FROM_GUEST, Reply};

/// Of the transcript, as much as this is kept, in bytes; the newest half when it is full.
const LONGEST: usize = 1 << 20;
/// Of one line of it, as much goes into an error message, in characters.
const LONGEST_LINE: usize = 160;

/// All that was said, by guest and monitor; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Transcript(Arc<Mutex<String>>);

impl Transcript {
    /// Everything that is kept.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last lines, for an error message.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = all.get(all.len().saturating_sub(lines)..).unwrap_or_default();
        let short = |line: &&str| line.chars().take(LONGEST_LINE).collect::<String>();
        last.iter().map(short).collect::<Vec<_>>().join("\n")
    }

    fn add(&self, piece: &str) {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(piece);
        if text.len() > LONGEST {
            let start = (text.len() / 2..).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.drain(..start);
        }
    }
}

/// Reads until the end of `source` on a thread of its own; keeps what it reads.
pub fn keep(source: impl Read + Send + 'static, transcript: &Transcript) {
    let transcript = transcript.clone();
    std::thread::spawn(move || lines(source, &transcript, |_| ()));
}

/// As [`keep`], and gives the agent's replies.
#[must_use]
pub fn replies(source: impl Read + Send + 'static, transcript: &Transcript) -> Receiver<Reply> {
    let (sender, receiver): (Sender<Reply>, _) = channel();
    let transcript = transcript.clone();
    std::thread::spawn(move || {
        lines(source, &transcript, |line| {
            // A receiver that is gone wants no more replies; the transcript goes on.
            let _ = reply(line).map(|reply| sender.send(reply));
        });
    });
    receiver
}

/// The reply in a line, which may begin with console text.
fn reply(line: &str) -> Option<Reply> {
    let (_, json) = line.rsplit_once(FROM_GUEST)?;
    serde_json::from_str(json.trim()).ok()
}

fn lines(mut source: impl Read, transcript: &Transcript, mut line: impl FnMut(&str)) {
    let mut pending = Vec::new();
    let mut buffer = [0_u8; 4096];
    while let Ok(count @ 1..) = source.read(&mut buffer) {
        let piece = buffer.get(..count).unwrap_or_default();
        transcript.add(&String::from_utf8_lossy(piece).replace('\r', ""));
        pending.extend_from_slice(piece);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let whole: Vec<u8> = pending.drain(..=end).collect();
            line(&String::from_utf8_lossy(&whole));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_found_behind_console_text_and_the_rest_is_kept() {
        let said = b"[ 0.1] Linux version\r\n[ 1.2] rand\x1b[0m@< {\"id\":3,\"answer\":\"done\"}\r\n\
            @< {\"id\":4,\"ans[ 1.3] torn\r\n@< {\"id\":5,\"answer\":{\"cpus\":4}}\n";
        let transcript = Transcript::default();
        let ids: Vec<u32> = replies(&said[..], &transcript).iter().map(|reply| reply.id).collect();
        assert_eq!(ids, [3, 5]);
        assert!(transcript.text().contains("Linux version\n"));
        assert!(transcript.tail(2).starts_with("@< {\"id\":4"));
    }
}
