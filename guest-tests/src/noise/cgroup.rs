//! A control group with one monitor in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{number, read, set};

const ROOT: &str = "/sys/fs/cgroup";
/// Puts itself into the group named first and becomes the rest.
const ENTER: &str = r#"echo $$ >"$0" && exec "$@""#;

/// A control group of version 2. Dropping it removes it, once nobody is in it.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a group without limits.
    ///
    /// # Errors
    /// The host has no control groups, or has one of that name.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let path = Path::new(ROOT).join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make the control group {}", path.display()))?;
        Ok(Self(path))
    }

    /// The words that start a command in it.
    #[must_use]
    pub fn words(&self) -> [String; 4] {
        let procs = self.0.join("cgroup.procs").display().to_string();
        ["sh".to_owned(), "-c".to_owned(), ENTER.to_owned(), procs]
    }

    /// Sets `memory.max` in MiB, and takes `memory.high` away.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn limit_memory(&self, mib: u64) -> anyhow::Result<()> {
        set(&self.0.join("memory.high"), "max")?;
        set(&self.0.join("memory.max"), &format!("{mib}M"))
    }

    /// Takes `memory.max` away, and sets `memory.high` in MiB.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn slow_down_at(&self, mib: u64) -> anyhow::Result<()> {
        set(&self.0.join("memory.max"), "max")?;
        set(&self.0.join("memory.high"), &format!("{mib}M"))
    }

    /// Sets `memory.swap.max` in MiB.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn limit_swap(&self, mib: u64) -> anyhow::Result<()> {
        set(&self.0.join("memory.swap.max"), &format!("{mib}M"))
    }

    /// Has the kernel swap out so much of what is in it (`memory.reclaim`); says whether it found that much. Programs stay
    /// in memory.
    pub fn reclaim(&self, mib: u64) -> bool {
        set(&self.0.join("memory.reclaim"), &format!("{mib}M swappiness=200")).is_ok()
    }

    /// The memory charged to it, in MiB, without pages that the kernel can drop at any time.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn held_mib(&self) -> anyhow::Result<u64> {
        let text = read(&self.0.join("memory.stat"))?;
        let bytes = |name| number(&text, name).with_context(|| format!("memory.stat has no {name}"));
        Ok((bytes("anon")? + bytes("kernel")?) >> 20)
    }

    /// How often a limit was hit (`max` in `memory.events`).
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn hits(&self) -> anyhow::Result<u64> {
        self.event("max")
    }

    /// How often the kernel has slowed somebody down (`high` in `memory.events`).
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn slowed_down(&self) -> anyhow::Result<u64> {
        self.event("high")
    }

    /// How many processes the kernel has killed in it.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn killed(&self) -> anyhow::Result<u64> {
        self.event("oom_kill")
    }

    fn event(&self, name: &str) -> anyhow::Result<u64> {
        let text = read(&self.0.join("memory.events"))?;
        number(&text, name).with_context(|| format!("memory.events has no {name}: {text}"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("cannot remove the control group {}: {error}", self.0.display());
        }
    }
}
