//! `firepilot`, which gives standard streams to nobody and never says how much memory a guest has.

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use firepilot::builder::drive::DriveBuilder;
use firepilot::builder::executor::FirecrackerExecutorBuilder;
use firepilot::builder::kernel::KernelBuilder;
use firepilot::builder::network_interface::NetworkInterfaceBuilder;
use firepilot::builder::{Builder, Configuration};
use firepilot::machine::{FirepilotError, Machine};
use guest_tests::testvm::wait_until;
use guest_tests::{Kernel, http};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::stage::{AbsentTap, BOOT_ARGS, Stage};

const ID: &str = "firepilot-guest";
const TAP: &str = "firepilot0";

/// Boots a guest, pauses it, lets it go on, and ends it by Ctrl-Alt-Del.
///
/// # Errors
/// A call fails, or does not do what it says.
pub fn whole_life(kernel: Kernel) -> anyhow::Result<()> {
    let stage = Stage::new(kernel)?;
    let tap = AbsentTap::new(TAP)?;
    let mut guest = Guest::start(&stage, &tap)?;
    let socket = stage.file(ID).join("firecracker.socket");
    ensure!(tap.exists(), "the monitor has made no TAP interface");
    // Its driver comes with the agent.
    let is_live = wait_until(|| Ok(http::of_devices(&socket, "activations")?.contains(&1)))?;
    ensure!(is_live, "the guest uses no device");

    guest.call(async |machine| machine.pause().await)?;
    ensure!(state(&socket)? == "Paused", "it does not say that it is paused");
    guest.call(async |machine| machine.resume().await)?;
    ensure!(state(&socket)? == "Running", "it does not say that it runs");
    guest.call(async |machine| machine.stop().await)?;
    let ended = wait_until(|| Ok(http::request(&socket, "GET", "/", None).is_err()))?;
    ensure!(ended, "Ctrl-Alt-Del does not end the guest");
    tap.wait_gone()?;
    guest.call(async |machine| machine.kill().await).context("after the end")
}

/// The state of the guest, by the API.
fn state(socket: &Path) -> anyhow::Result<String> {
    let info = http::request(socket, "GET", "/", None)?.success()?;
    info.get("state").and_then(Value::as_str).map(str::to_owned).context("GET / tells no state")
}

/// The guest, killed when it is dropped.
struct Guest {
    machine: Machine,
    runtime: Runtime,
}

impl Guest {
    fn start(stage: &Stage, tap: &AbsentTap) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let text = |path: &Path| path.display().to_string();
        let built = |error| anyhow!("not a configuration: {error:?}");
        let kernel = KernelBuilder::new()
            .with_kernel_image_path(text(&stage.kernel.vmlinux()))
            .with_initrd_path(text(&stage.initrd()?))
            .with_boot_args(BOOT_ARGS.to_owned())
            .try_build()
            .map_err(built)?;
        let executor = FirecrackerExecutorBuilder::new()
            .with_chroot(text(stage.directory()))
            .with_exec_binary(stage.program())
            .try_build()
            .map_err(built)?;
        let drive = DriveBuilder::new()
            .with_drive_id("data".to_owned())
            .with_path_on_host(stage.disk("data", 16)?)
            .try_build()
            .map_err(built)?;
        let interface = NetworkInterfaceBuilder::new()
            .with_iface_id("eth0".to_owned())
            .with_host_dev_name(tap.name())
            .try_build()
            .map_err(built)?;
        let configuration = Configuration::new(ID.to_owned())
            .with_kernel(kernel)
            .with_executor(executor)
            .with_drive(drive)
            .with_interface(interface);
        let mut guest = Self { machine: Machine::new(), runtime };
        guest.call(async move |machine| machine.create(configuration).await)?;
        guest.call(async |machine| machine.start().await)?;
        Ok(guest)
    }

    /// A call of the crate.
    fn call<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut Machine) -> Result<T, FirepilotError>,
    ) -> anyhow::Result<T> {
        self.runtime.block_on(call(&mut self.machine)).map_err(|error| anyhow!("{error:?}"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It has mostly ended.
        let _ = self.call(async |machine| machine.kill().await);
    }
}
