//! The host swaps, to memory that it compresses.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use super::{number, read, set};

const DEVICE: &str = "/dev/zram0";
const SETTINGS: &str = "/sys/block/zram0";

/// Swap on zram. Dropping it turns it off.
#[derive(Debug)]
pub struct Zram(());

/// Pages that the host has swapped since it booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Read (`pswpin`).
    pub pages_in: u64,
    /// Written (`pswpout`).
    pub pages_out: u64,
}

impl Zram {
    /// Turns so much swap on.
    ///
    /// # Errors
    /// The host has no zram, or it is in use.
    pub fn on(mib: u64) -> anyhow::Result<Self> {
        let settings = Path::new(SETTINGS);
        ensure!(settings.exists(), "no {SETTINGS}: ci/kvm-host brings the module zram into the nested host");
        set(&settings.join("reset"), "1")?;
        set(&settings.join("disksize"), &format!("{mib}M"))?;
        run("mkswap", &[DEVICE])?;
        run("swapon", &[DEVICE])?;
        Ok(Self(()))
    }

    /// Pages swapped so far.
    ///
    /// # Errors
    /// `/proc` does not say.
    pub fn traffic(&self) -> anyhow::Result<Traffic> {
        let text = read(Path::new("/proc/vmstat"))?;
        let count = |name| number(&text, name).with_context(|| format!("/proc/vmstat has no {name}"));
        Ok(Traffic { pages_in: count("pswpin")?, pages_out: count("pswpout")? })
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        if let Err(error) = run("swapoff", &[DEVICE]) {
            eprintln!("{error:#}");
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
