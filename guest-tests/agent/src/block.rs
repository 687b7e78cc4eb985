//! Block devices: list, write a pattern, read it back.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};

use guest_agent::{Block, Verified, pattern};

const PAGE: u64 = pattern::PAGE as u64;
/// `/sys/block/*/size` counts these (Documentation/ABI/stable/sysfs-block).
const SECTOR: u64 = 512;
/// Pages per read or write.
const CHUNK: u64 = 64;

/// Everything in `/sys/block`, by name.
pub(crate) fn list() -> Result<Vec<Block>, String> {
    let entries = fs::read_dir("/sys/block").map_err(|error| format!("cannot list /sys/block: {error}"))?;
    let number = |name: &str, file: &str| -> u64 {
        let text = fs::read_to_string(format!("/sys/block/{name}/{file}")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let mut blocks: Vec<Block> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .map(|name| Block {
            bytes: number(&name, "size") * SECTOR,
            read_only: number(&name, "ro") != 0,
            name,
        })
        .collect();
    blocks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(blocks)
}

/// Writes the pattern; page numbers count from the start of the device.
pub(crate) fn write(device: &str, offset: u64, bytes: u64, seed: u64) -> Result<(), String> {
    let attempt = |mut file: File| -> std::io::Result<()> {
        file.seek(SeekFrom::Start(offset))?;
        for chunk in chunks(offset, bytes) {
            let mut buffer = Vec::new();
            for page in chunk {
                let mut words = [0_u64; pattern::WORDS];
                pattern::write(&mut words, seed, page);
                buffer.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            }
            file.write_all(&buffer)?;
        }
        file.sync_all()
    };
    open(device, true, offset, bytes)
        .and_then(|file| attempt(file).map_err(|error| failed("write", device, &error)))
}

/// Reads back what [`write`] wrote, from the device and not from the cache.
pub(crate) fn verify(device: &str, offset: u64, bytes: u64, seed: u64) -> Result<Verified, String> {
    let mut file = open(device, false, offset, bytes)?;
    super::kernel::drop_caches()?;
    let mut attempt = || -> std::io::Result<Verified> {
        let mut result = Verified::default();
        file.seek(SeekFrom::Start(offset))?;
        let mut buffer = [0_u8; pattern::PAGE];
        for page in chunks(offset, bytes).flatten() {
            file.read_exact(&mut buffer)?;
            let words: Vec<u64> =
                buffer.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
            result.pages += 1;
            if !pattern::matches(&words, seed, page) {
                result.wrong += 1;
                result.first_wrong.get_or_insert(page);
            }
        }
        Ok(result)
    };
    attempt().map_err(|error| failed("read", device, &error))
}

/// fsyncs the device, which makes the kernel send a flush.
pub(crate) fn flush(device: &str) -> Result<(), String> {
    let file = open(device, true, 0, 0)?;
    file.sync_all().map_err(|error| failed("flush", device, &error))
}

/// Page numbers of a range, in pieces.
fn chunks(offset: u64, bytes: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    let (first, end) = (offset / PAGE, (offset + bytes) / PAGE);
    (first..end).step_by(CHUNK as usize).map(move |start| start..end.min(start + CHUNK))
}

fn open(device: &str, write: bool, offset: u64, bytes: u64) -> Result<File, String> {
    if !offset.is_multiple_of(PAGE) || !bytes.is_multiple_of(PAGE) || offset.checked_add(bytes).is_none() {
        return Err("offset and length must be multiples of 4096".to_owned());
    }
    let file = OpenOptions::new().read(true).write(write).open(format!("/dev/{device}"));
    file.map_err(|error| failed("open", device, &error))
}

fn failed(what: &str, device: &str, error: &std::io::Error) -> String {
    format!("cannot {what} /dev/{device}: {error}")
}
