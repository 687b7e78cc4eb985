//! Builds the guests' initramfs: the agent as `/init` and the modules of one kernel.
//!
//! ```text
//! /init             the agent, static
//! /dev/console      so that init has standard streams before devtmpfs is mounted
//! /modules/*.ko     uncompressed
//! /modules/order    names of those that every guest needs, in the order in which to load them
//! /modules/root     names of those that a root disk needs besides; further lists, for what only some
//! /modules/net      guests do: for the network, for swap on a network block device. The agent loads
//! /modules/swap     them when it is asked to, so that they cost a guest's boot nothing
//! ```
//! It stays uncompressed: guests that are emulated start faster so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::cpio::Archive;
use crate::kernels::Kernel;
use crate::paths;

/// What the agent needs, by module name. Dependencies come by themselves; what is built in is left out.
const WANTED: [&str; 5] = ["virtio_mmio", "virtio_pci", "virtio_blk", "virtio_rng", "virtio_balloon"];

/// What is loaded when it is needed, by the name of its list.
const ON_DEMAND: [(&str, &str); 3] = [("root", "ext4"), ("net", "virtio_net"), ("swap", "nbd")];

/// The agent is linked for this target, so that its flags do not touch what cargo runs at build time.
const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds agent and initramfs where they are out of date; gives the archive's path.
///
/// # Errors
/// A kernel is missing, or cargo, xz or zstd failed.
pub fn build(kernel: Kernel) -> anyhow::Result<PathBuf> {
    let agent = build_agent()?;
    let path = path(kernel);
    let sources = [&agent, &kernel.modules().join("modules.dep")];
    if newer_than_all(&path, &sources) {
        return Ok(path);
    }
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "tmp", "root", "modules"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    let program = fs::read(&agent).with_context(|| format!("cannot read {}", agent.display()))?;
    archive.file("init", true, &program);
    let order = load_order(&kernel.modules(), &WANTED)?;
    let mut lists = vec![("order", order.clone())];
    for (list, module) in ON_DEMAND {
        let with = load_order(&kernel.modules(), &[&WANTED[..], &[module]].concat())?;
        lists.push((list, with.into_iter().skip(order.len()).collect()));
    }
    let files: BTreeSet<&String> = lists.iter().flat_map(|(_, modules)| modules).collect();
    for module in files {
        archive.file(
            &format!("modules/{}", file_name(module)),
            false,
            &unpacked(&kernel.modules().join(module))?,
        );
    }
    for (list, modules) in &lists {
        let names: String = modules.iter().map(|module| format!("{}\n", file_name(module))).collect();
        archive.file(&format!("modules/{list}"), false, names.as_bytes());
    }

    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    // Written aside and moved, so that a run beside this one never sees half a file.
    let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&unfinished, archive.finish())
        .with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, &path)?;
    Ok(path)
}

/// Where [`build`] leaves the archive of a kernel.
#[must_use]
pub fn path(kernel: Kernel) -> PathBuf {
    paths::target().join("initramfs").join(format!("{kernel}.cpio"))
}

/// The archive of a kernel. Inside the nested host it was built before, as cargo cannot run there.
///
/// # Errors
/// As [`build`].
pub fn ready(kernel: Kernel) -> anyhow::Result<PathBuf> {
    let path = path(kernel);
    if crate::kvm_host::inside() && path.exists() { Ok(path) } else { build(kernel) }
}

/// The archive of a kernel in `directory`, with another file in the place of one of its modules.
///
/// # Errors
/// As [`build`], or `file` is missing.
pub fn with_module(kernel: Kernel, file: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
    let module = fs::read(file).with_context(|| format!("no {}: run ci/setup", file.display()))?;
    let mut archive = Archive::default();
    archive.file(&format!("modules/{}", file_name(&file.to_string_lossy())), false, &module);
    // A kernel unpacks one archive after the other.
    let both = [fs::read(ready(kernel)?)?, archive.finish()].concat();
    let path = directory.join("initramfs.cpio");
    fs::write(&path, both)?;
    Ok(path)
}

fn build_agent() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--release", "-p", "guest-agent", "--target", AGENT_TARGET])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(paths::repository());
    let status = command.status().context("cannot run cargo to build the guest agent")?;
    if !status.success() {
        bail!("cargo could not build the guest agent ({status}): its messages stand above");
    }
    Ok(agent())
}

/// The agent's program, which [`build`] makes.
#[must_use]
pub fn agent() -> PathBuf {
    paths::target().join(AGENT_TARGET).join("release/guest-agent")
}

fn newer_than_all(path: &Path, sources: &[&PathBuf]) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let Some(made) = time(path) else { return false };
    sources.iter().all(|source| time(source).is_some_and(|changed| changed < made))
}

/// Files of `modules.dep` in load order: what a module needs comes before it.
fn load_order(directory: &Path, wanted: &[&str]) -> anyhow::Result<Vec<String>> {
    let read = |name: &str| {
        let file = directory.join(name);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}: run ci/setup", file.display()))
    };
    order(&read("modules.dep")?, &read("modules.builtin")?, wanted)
}

fn order(dependencies: &str, builtin: &str, wanted: &[&str]) -> anyhow::Result<Vec<String>> {
    let builtin: BTreeSet<String> = builtin.lines().map(module_name).collect();
    let mut known = BTreeMap::new();
    for line in dependencies.lines() {
        if let Some((file, needs)) = line.split_once(':') {
            known.insert(module_name(file), (file, needs));
        }
    }
    let mut files: Vec<String> = Vec::new();
    for name in wanted.iter().filter(|name| !builtin.contains(**name)) {
        let (file, needs) = known.get(*name).with_context(|| format!("this kernel has no module {name}"))?;
        // modules.dep lists what is to be loaded first last.
        for next in needs.split_whitespace().rev().chain([*file]) {
            if !files.iter().any(|file| file == next) {
                files.push(next.to_owned());
            }
        }
    }
    Ok(files)
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko.xz` is the module `virtio_rng`.
fn module_name(file: &str) -> String {
    file_name(file).trim_end_matches(".ko").replace('-', "_")
}

/// The file's name once it is unpacked.
fn file_name(file: &str) -> &str {
    let name = file.trim().rsplit('/').next().unwrap_or(file);
    name.strip_suffix(".xz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name)
}

fn unpacked(file: &Path) -> anyhow::Result<Vec<u8>> {
    let program = match file.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let output = Command::new(program).arg("-dc").arg(file).output();
    let output = output.with_context(|| format!("cannot run {program}: run ci/setup"))?;
    if !output.status.success() {
        bail!("{program} could not unpack {}", file.display());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_comes_before_it_once_and_builtin_ones_are_left_out() -> anyhow::Result<()> {
        let dependencies = "kernel/a/virtio.ko.xz:\n\
            kernel/a/virtio_ring.ko.xz: kernel/a/virtio.ko.xz\n\
            kernel/b/virtio-rng.ko.xz: kernel/a/virtio_ring.ko.xz kernel/a/virtio.ko.xz\n\
            kernel/b/virtio_blk.ko.xz: kernel/a/virtio_ring.ko.xz kernel/a/virtio.ko.xz\n";
        let files =
            order(dependencies, "kernel/c/virtio_pci.ko\n", &["virtio_pci", "virtio_rng", "virtio_blk"])?;
        let names: Vec<&str> = files.iter().map(|file| file_name(file)).collect();
        assert_eq!(names, ["virtio.ko", "virtio_ring.ko", "virtio-rng.ko", "virtio_blk.ko"]);
        assert!(order(dependencies, "", &["virtio_pci"]).is_err(), "a module that is nowhere is an error");
        Ok(())
    }
}
