//! QEMU's monitor protocol, as much as the comparison needs: one command, one answer, events passed over.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and leaves the negotiation mode.
    ///
    /// # Errors
    /// Nobody listens, or it is not QEMU.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("cannot reach QEMU at {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        qmp.line().context("QEMU did not greet")?;
        qmp.execute("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    /// Runs one command.
    ///
    /// # Errors
    /// QEMU is gone or refuses.
    pub fn execute(&mut self, command: &str, arguments: Value) -> anyhow::Result<Value> {
        let mut message = json!({ "execute": command });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        self.stream.get_mut().write_all(format!("{message}\n").as_bytes()).context("QEMU is gone")?;
        loop {
            let answer = self.line()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
        }
    }

    /// What the balloon leaves of the guest's memory, in bytes.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn balloon(&mut self) -> anyhow::Result<u64> {
        let answer = self.execute("query-balloon", Value::Null)?;
        answer.get("actual").and_then(Value::as_u64).context("query-balloon gave no size")
    }

    fn line(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).context("QEMU's monitor socket broke off")? == 0 {
            bail!("QEMU closed its monitor socket");
        }
        serde_json::from_str(&line).context("QEMU's answer is not JSON")
    }
}
