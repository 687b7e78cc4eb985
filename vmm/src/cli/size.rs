//! Values of flags: sizes of memory, numbers, names of guests.

use std::net::SocketAddr;

use crate::vm::config::{Kib, MAX_MEMORY, MAX_VCPUS, Mib, WatermarksConfig};

/// The form of a size, for the sentences about wrong ones.
const WRITE: &str = "write 512M, 1.5G, or a number of MiB";

/// Most digits behind the point of a size.
const MAX_DECIMALS: usize = 9;

/// A size that comes to whole MiB.
pub(super) fn size(text: &str) -> Result<Mib, String> {
    in_units_of(text, 1 << 20, 'M').map(Mib)
}

/// A size that comes to whole KiB.
pub(super) fn kib(text: &str) -> Result<Kib, String> {
    in_units_of(text, 1 << 10, 'K').map(Kib)
}

/// Three sizes, for the watermarks min, low and high.
pub(super) fn watermarks(text: &str) -> Result<WatermarksConfig, String> {
    let wrong = || format!("\"{text}\" is not three sizes: write 4M,5M,6M for min, low and high");
    let sizes: Result<Vec<_>, _> = text.split(',').map(kib).collect();
    let [min_kib, low_kib, high_kib] = sizes?.try_into().map_err(|_| wrong())?;
    Ok(WatermarksConfig { min_kib, low_kib, high_kib })
}

/// How many units of `bytes` a size is, which is written with K, M, G or T (powers of 1024; `MiB` and the like, too), or is
/// a plain number of MiB. `letter` is that of the unit.
fn in_units_of(text: &str, bytes: u128, letter: char) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is not a size: {WRITE}");
    let too_large = || format!("\"{text}\" is more memory than any machine can have");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) || decimals.len() > MAX_DECIMALS {
        return Err(wrong());
    }
    let per_suffix: u128 = match suffix.to_ascii_lowercase().as_str() {
        "k" | "kib" => 1 << 10,
        "" | "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    // In decimals of a byte, so that nothing is rounded.
    let digits = format!("{whole}{decimals}").parse::<u128>().ok();
    let size = digits.and_then(|digits| digits.checked_mul(per_suffix)).ok_or_else(too_large)?;
    let unit = bytes * decimals.bytes().fold(1, |power, _| power * 10);
    let count = size.div_ceil(unit);
    if count.saturating_mul(bytes) > u64::MAX.into() {
        return Err(too_large());
    }
    if size % unit != 0 {
        return Err(format!("\"{text}\" is not a whole number of {letter}iB: {count}{letter} is the next"));
    }
    u64::try_from(count).map_err(|_| too_large())
}

/// A size that is not zero, to have back.
pub(super) fn reclaim(text: &str) -> Result<Mib, String> {
    match size(text)? {
        Mib(0) => Err(format!("nothing would come back: {WRITE}")),
        size => Ok(size),
    }
}

/// Largest swap device.
const MAX_DEVICE: Mib = Mib(1 << 20);

/// Size of a swap device, or of the memory for it.
pub(super) fn device(text: &str) -> Result<Mib, String> {
    match size(text)? {
        Mib(0) => Err(format!("with 0 nothing can be stored: {WRITE}")),
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

/// Memory of a guest, or the most that it may come to.
pub(super) fn memory(text: &str) -> Result<Mib, String> {
    match size(text)? {
        Mib(0) => Err(format!("a guest needs memory: {WRITE}")),
        size if size > MAX_MEMORY => Err(format!("\"{text}\" is more than a guest can have, which is 15T")),
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

/// The name of a guest that runs.
pub(super) fn guest(text: &str) -> Result<String, String> {
    match text {
        "" => Err("name a guest as aerostat list shows it".to_owned()),
        name => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, mib) in [
            ("512M", 512),
            ("512MiB", 512),
            ("512", 512),
            ("1G", 1024),
            ("2gib", 2048),
            ("1T", 1 << 20),
            ("2048K", 2),
            ("1.5G", 1536),
            ("0.5gib", 512),
            ("1.0625T", (1 << 20) + (1 << 16)),
            ("1.000000000", 1),
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
            ("1.G", "\"1.G\" is not a size"),
            (".5G", "\".5G\" is not a size"),
            ("1.5.1G", "\"1.5.1G\" is not a size"),
            ("1,5G", "\"1,5G\" is not a size"),
            ("1.0000000000G", "\"1.0000000000G\" is not a size"),
            ("512MB", "\"512MB\" is not a size"),
            ("512iB", "\"512iB\" is not a size"),
            ("1Gé", "\"1Gé\" is not a size"),
            ("1000K", "\"1000K\" is not a whole number of MiB: 1M is the next"),
            ("1.3G", "\"1.3G\" is not a whole number of MiB: 1332M is the next"),
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
            "a guest needs memory: write 512M, 1.5G, or a number of MiB"
        );
        assert_eq!(kib("1.5K").expect_err("half"), "\"1.5K\" is not a whole number of KiB: 2K is the next");
        assert_eq!(kib("1.5"), Ok(Kib(1536)));
    }
}
