//! The network calls of the [`Controller`].

use std::mem;

use super::{super::types::NetworkInterfaceUpdate, ControlError, Controller};
use crate::vm::config::{ConfigError, NetworkInterface, VmConfig, check_id};

impl Controller {
    /// `PUT /network-interfaces/{id}`.
    pub fn set_network_interface(
        &mut self,
        id: &str,
        interface: NetworkInterface,
    ) -> Result<(), ControlError> {
        same(id, &interface.iface_id)?;
        let mut taps = mem::take(&mut self.taps);
        let changed = self.change(|config| {
            let name = interface.host_dev_name.clone();
            config.set_network_interface(interface);
            config.validate()?;
            Ok(taps.hold(&name)?)
        });
        taps.retain(|name| self.config.network_interfaces.iter().any(|known| known.host_dev_name == name));
        self.taps = taps;
        changed
    }

    /// Opens the TAP interfaces that `config` names.
    pub(super) fn hold_taps(&mut self, config: &VmConfig) -> Result<(), ConfigError> {
        config.network_interfaces.iter().try_for_each(|known| Ok(self.taps.hold(&known.host_dev_name)?))
    }

    /// `PATCH /network-interfaces/{id}`.
    pub fn update_network_interface(
        &mut self,
        id: &str,
        update: NetworkInterfaceUpdate,
    ) -> Result<(), ControlError> {
        same(id, &update.iface_id)?;
        let vm = self.vm.as_mut().ok_or(ControlError::BeforeStart)?;
        let mut interfaces = self.config.network_interfaces.iter_mut();
        let interface = interfaces.find(|interface| interface.iface_id == id);
        let interface = interface.ok_or_else(|| ControlError::NoInterface(id.to_owned()))?;
        let rx = update.rx_rate_limiter.unwrap_or_default();
        let tx = update.tx_rate_limiter.unwrap_or_default();
        vm.limit_network(id, rx, tx)?;
        for (limiter, change) in [
            (&mut interface.rx_rate_limiter, update.rx_rate_limiter),
            (&mut interface.tx_rate_limiter, update.tx_rate_limiter),
        ] {
            if let Some(change) = change {
                *limiter = Some(limiter.unwrap_or_default().changed_by(change));
            }
        }
        tracing::info!(id, ?rx, ?tx, "A network interface has new limits");
        Ok(())
    }
}

fn same(path: &str, body: &str) -> Result<(), ConfigError> {
    check_id(path)?;
    if path == body {
        return Ok(());
    }
    Err(ConfigError::InterfaceIdMismatch { path: path.to_owned(), body: body.to_owned() })
}
