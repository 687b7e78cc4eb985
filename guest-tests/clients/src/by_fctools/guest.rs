//! A guest that `fctools` has started, its agent, and the runtime that the crate wants.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, ensure};
use fctools::process_spawner::DirectProcessSpawner;
use fctools::runtime::tokio::TokioRuntime;
use fctools::vm::Vm;
use fctools::vm::api::VmApiError;
use fctools::vm::configuration::{InitMethod, VmConfiguration, VmConfigurationData};
use fctools::vm::shutdown::{VmShutdownAction, VmShutdownMethod};
use fctools::vmm::arguments::VmmArguments;
use fctools::vmm::executor::unrestricted::UnrestrictedVmmExecutor;
use fctools::vmm::id::VmmId;
use fctools::vmm::installation::VmmInstallation;
use fctools::vmm::ownership::VmmOwnershipModel;
use fctools::vmm::resource::system::ResourceSystem;
use fctools::vmm::resource::{MovedResourceType, Resource, ResourceType};
use guest_tests::AgentClient;
use guest_tests::console::{self, Transcript};
use tokio::runtime::Runtime;

use crate::stage::Stage;

/// Longest wait for the socket, and for the end.
const PATIENCE: Duration = Duration::from_secs(120);
/// The guest's name.
pub(super) const ID: &str = "fctools-guest";

pub(super) type Machine = Vm<UnrestrictedVmmExecutor, DirectProcessSpawner, TokioRuntime>;
pub(super) type Resources = ResourceSystem<DirectProcessSpawner, TokioRuntime>;

/// The guest, ended at the latest when it is dropped.
pub(super) struct Guest {
    pub(super) agent: AgentClient,
    vm: Machine,
    /// For files that the arguments name, which the crate would handle twice if they were the guest's own; and for those
    /// that are never written, which it could not clean up.
    others: Resources,
    runtime: Runtime,
}

impl Guest {
    /// Starts a guest and waits for its agent.
    pub(super) fn start(
        stage: &Stage,
        how: InitMethod,
        arguments: impl FnOnce(&mut Resources) -> anyhow::Result<VmmArguments>,
        configuration: impl FnOnce(&mut Resources) -> anyhow::Result<VmConfigurationData>,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut vm, others) = runtime.block_on(async {
            let mut of_arguments = resources();
            let mut of_guest = resources();
            let executor = UnrestrictedVmmExecutor::new(arguments(&mut of_arguments)?).id(VmmId::new(ID)?);
            let data = configuration(&mut of_guest)?;
            let program = stage.program();
            // Neither a jailer nor an editor of snapshots is there, and neither is asked for.
            let installation = VmmInstallation::new(&program, &program, &program);
            let configuration = VmConfiguration::New { init_method: how, data };
            let vm = Vm::prepare(executor, of_guest, installation, configuration).await?;
            of_arguments.synchronize().await?;
            anyhow::Ok((vm, of_arguments))
        })?;
        let started = runtime.block_on(vm.start(PATIENCE));
        let pipes = runtime.block_on(async { vm.take_pipes() });
        let (stdin, mut stdout, mut stderr) = {
            let _entered = runtime.enter();
            let pipes = pipes.with_context(|| format!("the monitor does not run: {started:?}"))?;
            (
                file(pipes.stdin.into_inner().into_owned_fd()?),
                file(pipes.stdout.into_inner().into_owned_fd()?),
                file(pipes.stderr.into_inner().into_owned_fd()?),
            )
        };
        if let Err(error) = started {
            let _ = runtime.block_on(end(&mut vm, VmShutdownMethod::Kill));
            let mut words = String::new();
            let _ = stdout.read_to_string(&mut words);
            let _ = stderr.read_to_string(&mut words);
            return Err(error)
                .with_context(|| format!("the guest does not start; the monitor said: {words}"));
        }
        let transcript = Transcript::default();
        console::keep(stderr, &transcript);
        let replies = console::replies(stdout, &transcript);
        let look = Box::new(|| "  started by fctools\n".to_owned());
        let agent = AgentClient::new(Box::new(stdin), replies, transcript, look);
        let mut guest = Self { agent, vm, others, runtime };
        let ready = guest.agent.wait_ready()?;
        ensure!(ready.failed.is_empty(), "modules that did not load: {:?}", ready.failed);
        Ok(guest)
    }

    /// A call of the crate.
    pub(super) fn call<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut Machine) -> Result<T, VmApiError>,
    ) -> anyhow::Result<T> {
        Ok(self.runtime.block_on(call(&mut self.vm))?)
    }

    /// A file that is there, for a call.
    pub(super) fn resource(&mut self, path: PathBuf) -> anyhow::Result<Resource> {
        let moved = ResourceType::Moved(MovedResourceType::HardLinkedOrCopied);
        let resource = self.vm.get_resource_system_mut().create_resource(path, moved)?;
        resource.start_initialization_with_same_path()?;
        self.runtime.block_on(self.vm.get_resource_system_mut().synchronize())?;
        Ok(resource)
    }

    /// A file that the monitor would write, if it did.
    pub(super) fn unwritten(&mut self, path: PathBuf) -> anyhow::Result<Resource> {
        Ok(self.others.create_resource(path, ResourceType::Produced)?)
    }

    /// Ends it in this way, and has the crate clean up; how the monitor ended.
    pub(super) fn end(mut self, method: VmShutdownMethod) -> anyhow::Result<ExitStatus> {
        let status = self.runtime.block_on(end(&mut self.vm, method))?;
        self.runtime.block_on(self.vm.cleanup())?;
        Ok(status)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It has mostly ended.
        let _ = self.runtime.block_on(end(&mut self.vm, VmShutdownMethod::Kill));
    }
}

fn resources() -> Resources {
    ResourceSystem::new(DirectProcessSpawner, TokioRuntime, VmmOwnershipModel::Shared)
}

fn file(descriptor: OwnedFd) -> File {
    descriptor.into()
}

async fn end(vm: &mut Machine, method: VmShutdownMethod) -> anyhow::Result<ExitStatus> {
    let action = VmShutdownAction { method, timeout: Some(PATIENCE), graceful: true };
    Ok(vm.shutdown([action]).await?.exit_status)
}
