//! Values of flags: sizes of memory, numbers, names of guests.

use std::net::SocketAddr;

use crate::vm::config::{Kib, MAX_VCPUS, Mib, WatermarksConfig};

/// A size that comes to whole MiB.
pub(super) fn size(text: &str) -> Result<Mib, String> {
    let bytes = bytes(text)?;
    if bytes % (1 << 20) != 0 {
        return Err(format!("\"{text}\" is not a whole number of MiB"));
    }
    Ok(Mib(bytes >> 20))
}

/// A size that comes to whole KiB.
pub(super) fn kib(text: &str) -> Result<Kib, String> {
    bytes(text).map(|bytes| Kib(bytes >> 10))
}

/// Three sizes, for the watermarks min, low and high.
pub(super) fn watermarks(text: &str) -> Result<WatermarksConfig, String> {
    let wrong = || format!("\"{text}\" is not three sizes: write 4M,5M,6M for min, low and high");
    let sizes: Result<Vec<_>, _> = text.split(',').map(kib).collect();
    let [min_kib, low_kib, high_kib] = sizes?.try_into().map_err(|_| wrong())?;
    Ok(WatermarksConfig { min_kib, low_kib, high_kib })
}

/// Bytes of a size: a number with K, M, G or T (powers of 1024; `MiB` and the like too), or a plain
/// number of MiB.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is not a size: write 512M, 2G, or a number of MiB");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    if number.is_empty() {
        return Err(wrong());
    }
    let unit = unit.to_ascii_lowercase();
    let bytes_per_unit: u64 = match unit.strip_suffix("ib").unwrap_or(&unit) {
        "" | "m" => 1 << 20,
        "k" => 1 << 10,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err(wrong()),
    };
    let too_large = || format!("\"{text}\" is more memory than any machine can have");
    let number: u64 = number.parse().map_err(|_| too_large())?;
    number.checked_mul(bytes_per_unit).ok_or_else(too_large)
}

/// A size that is not zero, to have back.
pub(super) fn reclaim(text: &str) -> Result<Mib, String> {
    match size(text)? {
        Mib(0) => Err("say how much memory you want back: 512M, 2G, or a number of MiB".to_owned()),
        size => Ok(size),
    }
}

/// Largest swap device.
const MAX_DEVICE: Mib = Mib(1 << 20);

/// Size of a swap device, or of the memory for it.
pub(super) fn device(text: &str) -> Result<Mib, String> {
    match size(text)? {
        Mib(0) => Err("with 0 nothing can be stored: write 512M, 2G, or a number of MiB".to_owned()),
        size if size > MAX_DEVICE => {
            Err(format!("\"{text}\" is more than a swap device can have, which is 1T"))
        }
        size => Ok(size),
    }
}

/// How long a server may be away, seconds.
pub(super) fn timeout(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| {
        format!("\"{text}\" is no time to wait for a tier: write a number of seconds from 1 to {}", u32::MAX)
    })
}

/// A size that is not zero.
pub(super) fn memory(text: &str) -> Result<Mib, String> {
    match size(text)? {
        Mib(0) => Err("a guest needs memory: write 512M, 2G, or a number of MiB".to_owned()),
        size => Ok(size),
    }
}

/// A number of vCPUs.
pub(super) fn cpus(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=MAX_VCPUS).contains(number));
    number.ok_or_else(|| format!("a guest has 1 to {MAX_VCPUS} vCPUs"))
}

/// Where to listen.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an address and a port, not a name: 127.0.0.1:10809".to_owned())
}

/// A time between two readings.
pub(super) fn seconds(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("write a number of seconds from 0 to {}", u16::MAX))
}

/// A part of memory that leaves half of it at least.
pub(super) fn share(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (0..=50).contains(number));
    number.ok_or_else(|| "a share is a whole percentage from 0 to 50".to_owned())
}

/// A value of `extfrag_index`.
pub(super) fn extfrag_threshold(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|number| *number <= 1000);
    number.ok_or_else(|| "write a number from 0 to 1000".to_owned())
}

/// How eagerly memory is compacted.
pub(super) fn proactiveness(text: &str) -> Result<u8, String> {
    let number = text.parse().ok().filter(|number| *number <= 100);
    number.ok_or_else(|| "write a number from 0 to 100".to_owned())
}

/// The name of a guest, by Firecracker's rule.
pub(super) fn instance_id(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if (1..=64).contains(&text.len()) && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err("an id has 1 to 64 letters, digits or hyphens".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, mib) in [
            ("512M", 512),
            ("512", 512),
            ("1G", 1024),
            ("2gib", 2048),
            ("1T", 1 << 20),
            ("2048K", 2),
            ("0", 0),
        ] {
            assert_eq!(size(text), Ok(Mib(mib)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_said() {
        for (text, sentence) in [
            ("abc", "\"abc\" is not a size"),
            ("", "\"\" is not a size"),
            ("-1", "\"-1\" is not a size"),
            ("1.5G", "\"1.5G\" is not a size"),
            ("1Gé", "\"1Gé\" is not a size"),
            ("1000K", "\"1000K\" is not a whole number of MiB"),
            ("99999999999999999999", "\"99999999999999999999\" is more memory"),
            ("18446744073709551615T", "\"18446744073709551615T\" is more memory"),
        ] {
            let error = size(text).expect_err(text);
            assert!(error.starts_with(sentence), "{text}: {error}");
        }
        for (text, sentence) in [
            ("1M,2M", "\"1M,2M\" is not three sizes: write 4M,5M,6M for min, low and high"),
            ("1,2,3,4", "\"1,2,3,4\" is not three sizes"),
            ("1M,,3M", "\"\" is not a size"),
        ] {
            let error = watermarks(text).expect_err(text);
            assert!(error.starts_with(sentence), "{text}: {error}");
        }
        assert_eq!(
            memory("0M").expect_err("zero"),
            "a guest needs memory: write 512M, 2G, or a number of MiB"
        );
    }
}
