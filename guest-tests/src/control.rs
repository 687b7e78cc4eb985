//! The host's hand on a running monitor: the API socket of Aerostat or QMP of QEMU, with the same calls.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::http::{self, Response};
use crate::qmp::Qmp;
use crate::subject::Subject;

const MIB: u64 = 1 << 20;

/// A way to control a running guest.
#[derive(Debug)]
pub enum Control {
    /// Aerostat's API.
    Api(PathBuf),
    /// QEMU's, with the guest's RAM in MiB.
    Qmp(Qmp, u64),
}

impl Control {
    /// Connects to a monitor that is up.
    ///
    /// # Errors
    /// QEMU's socket does not answer.
    pub fn connect(subject: Subject, socket: &Path, memory_mib: u64) -> anyhow::Result<Self> {
        match subject {
            Subject::Aerostat => Ok(Control::Api(socket.to_path_buf())),
            Subject::QemuPc | Subject::QemuMicrovm => Ok(Control::Qmp(Qmp::connect(socket)?, memory_mib)),
        }
    }

    /// Sets the balloon's target.
    ///
    /// # Errors
    /// The monitor refuses or is gone.
    pub fn set_balloon(&mut self, mib: u64) -> anyhow::Result<()> {
        match self {
            Control::Api(_) => self.api("PATCH", "/balloon", json!({ "amount_mib": mib })).map(drop),
            Control::Qmp(qmp, memory) => {
                qmp.execute("balloon", json!({ "value": memory.saturating_sub(mib) * MIB })).map(drop)
            }
        }
    }

    /// What the guest says that the balloon holds, in MiB.
    ///
    /// # Errors
    /// The monitor refuses or is gone.
    pub fn balloon_actual(&mut self) -> anyhow::Result<u64> {
        match self {
            Control::Api(_) => {
                let statistics = self.api("GET", "/balloon/statistics", Value::Null)?;
                statistics
                    .get("actual_mib")
                    .and_then(Value::as_u64)
                    .context("the statistics have no actual_mib")
            }
            Control::Qmp(qmp, memory) => Ok(memory.saturating_sub(qmp.balloon()? / MIB)),
        }
    }

    /// Stops the vCPUs.
    ///
    /// # Errors
    /// The monitor refuses or is gone.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.state("Paused", "stop")
    }

    /// Lets them run again.
    ///
    /// # Errors
    /// The monitor refuses or is gone.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.state("Resumed", "cont")
    }

    fn state(&mut self, state: &str, command: &str) -> anyhow::Result<()> {
        match self {
            Control::Api(_) => self.api("PATCH", "/vm", json!({ "state": state })).map(drop),
            Control::Qmp(qmp, _) => qmp.execute(command, Value::Null).map(drop),
        }
    }

    /// A call of Aerostat's API that is to succeed; a null body sends none.
    ///
    /// # Errors
    /// The status is not 2xx, the monitor is gone, or it is QEMU.
    pub fn api(&self, method: &str, path: &str, body: Value) -> anyhow::Result<Value> {
        self.api_response(method, path, body)?.success().with_context(|| format!("{method} {path}"))
    }

    /// As [`Control::api`], whatever the status.
    ///
    /// # Errors
    /// The monitor is gone, or it is QEMU.
    pub fn api_response(&self, method: &str, path: &str, body: Value) -> anyhow::Result<Response> {
        http::request(self.socket()?, method, path, (!body.is_null()).then_some(&body))
    }

    /// The socket of Aerostat's API.
    ///
    /// # Errors
    /// It is QEMU.
    pub fn socket(&self) -> anyhow::Result<&Path> {
        match self {
            Control::Api(socket) => Ok(socket),
            Control::Qmp(..) => bail!("this call is for Aerostat; this guest runs under QEMU"),
        }
    }
}
