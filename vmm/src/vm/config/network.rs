//! `network-interfaces`: network cards, each on a TAP interface of the host.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ConfigError, MacAddress, RateLimiter};
use crate::devices::virtio::net::{NetConfig, Tap, TapError};
use crate::swap::{CARD, GUEST_MAC};

/// The smallest largest packet: less is no link for IPv4 (RFC 791; virtio section 5.1.4.1).
const MIN_MTU: u16 = 68;

/// One network card of the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// Name by which the API knows the card: in its calls letters, digits, underscores.
    pub iface_id: String,
    /// A TAP interface of the host in nobody's use; made, and gone with the guest, if it is not there.
    pub host_dev_name: String,
    /// The card's address; derived from the guest's id and `host_dev_name` if left out.
    #[serde(default)]
    pub guest_mac: Option<MacAddress>,
    /// Bytes in the largest packet, at least 68; the guest decides if left out.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Limits on what the guest receives.
    #[serde(default)]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limits on what the guest sends.
    #[serde(default)]
    pub tx_rate_limiter: Option<RateLimiter>,
}

impl NetworkInterface {
    /// The same for the device of the guest called `guest`.
    pub fn device(&self, guest: &str) -> NetConfig {
        let mac = self.guest_mac.unwrap_or_else(|| MacAddress::derive(guest, &self.host_dev_name));
        NetConfig {
            mac: mac.octets(),
            mtu: self.mtu,
            rx_limits: self.rx_rate_limiter.unwrap_or_default().limits(),
            tx_limits: self.tx_rate_limiter.unwrap_or_default().limits(),
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if self.iface_id.is_empty() {
            return Err(ConfigError::NoId("network interface"));
        }
        if !Tap::is_name(&self.host_dev_name) {
            return Err(TapError::Name(self.host_dev_name.clone()).into());
        }
        match self.mtu {
            Some(mtu) if mtu < MIN_MTU => Err(ConfigError::MtuTooSmall(mtu)),
            _ => Ok(()),
        }
    }
}

pub(super) fn validate_all(interfaces: &[NetworkInterface]) -> Result<(), ConfigError> {
    let (mut ids, mut names, mut macs) = (HashSet::new(), HashSet::new(), HashSet::new());
    for interface in interfaces {
        interface.validate()?;
        if !ids.insert(&interface.iface_id) {
            return Err(ConfigError::DuplicateInterface(interface.iface_id.clone()));
        }
        if !names.insert(&interface.host_dev_name) {
            return Err(ConfigError::DuplicateTap(interface.host_dev_name.clone()));
        }
        if let Some(mac) = interface.guest_mac
            && !macs.insert(mac)
        {
            return Err(ConfigError::DuplicateMac(mac));
        }
    }
    Ok(())
}

/// Checks that none of them is taken for the swap device's own network card.
pub(super) fn validate_beside_swap(interfaces: &[NetworkInterface]) -> Result<(), ConfigError> {
    for interface in interfaces {
        if interface.iface_id == CARD {
            return Err(ConfigError::SwapName(CARD));
        }
        match interface.guest_mac {
            Some(mac) if mac.octets() == GUEST_MAC => return Err(ConfigError::SwapMac(mac)),
            _ => {}
        }
    }
    Ok(())
}
