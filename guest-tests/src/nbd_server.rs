//! An NBD server of somebody else, as a peer: its export lies in memory.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::host;
use crate::process::{self, Reaped};
use crate::testvm::wait_until;

/// Where the export lies: always in memory, which `/tmp` need not be.
const MEMORY: &str = "/dev/shm";
/// Clients at once.
const CLIENTS: &str = "16";

/// A running `qemu-nbd`; killed when it is dropped.
#[derive(Debug)]
pub struct NbdServer {
    child: Reaped,
    /// Holds the export and what the server said.
    _directory: TempDir,
}

impl NbdServer {
    /// Exports `mib` of zeroes, that can be discarded again, at an address of this host.
    ///
    /// # Errors
    /// There is no `qemu-nbd`, or it does not listen.
    pub fn qemu(address: SocketAddr, export: &str, mib: u64) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("aerostat-nbd-").tempdir_in(MEMORY)?;
        let (image, log) = (directory.path().join("export"), directory.path().join("log"));
        File::create(&image)?.set_len(mib << 20)?;
        let mut command = Command::new("qemu-nbd");
        command
            .args(["--format=raw", "--discard=unmap", "--persistent", "--shared", CLIENTS])
            .args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()])
            .args(["--export-name", export])
            .arg(&image)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        process::die_with_parent(&mut command);
        let mut child = Reaped(command.spawn().context("cannot run qemu-nbd: run ci/setup first")?);
        let listens = wait_until(|| {
            if let Some(status) = child.0.try_wait()? {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("qemu-nbd ended with {status}: {}", said.trim());
            }
            Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
        })?;
        if !listens {
            bail!("qemu-nbd does not listen at {address}");
        }
        Ok(Self { child, _directory: directory })
    }

    /// CPU time that it has had so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        host::cpu_time(self.child.0.id())
    }
}
