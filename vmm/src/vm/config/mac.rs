//! The address of a network card.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// First octet, bit 0: the address is of a group (IEEE 802).
const GROUP: u8 = 1;
/// First octet, bit 1: the address was given by who runs the network, not by a manufacturer (IEEE 802).
const LOCAL: u8 = 2;

/// A MAC address that a card can have: neither of a group nor all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "02:00:00:00:00:01")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// One that is always the same for the same guest and interface of the host, and hardly ever for
    /// others: 46 bits of a hash (FNV-1a), locally administered.
    pub fn derive(guest: &str, host_dev_name: &str) -> Self {
        let name = guest.bytes().chain([0]).chain(host_dev_name.bytes());
        let hash = name.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let [a, b, c, d, e, f, _, _] = hash.to_be_bytes();
        Self([a & !GROUP | LOCAL, b, c, d, e, f])
    }

    /// As on the wire.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no MAC address: write six octets as in 02:00:00:00:00:01");
        let mut octets = [0; 6];
        let mut given = text.split(':');
        for octet in &mut octets {
            let digits = given.next().filter(|digits| digits.len() == 2);
            let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
            *octet = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or_else(wrong)?;
        }
        if given.next().is_some() {
            return Err(wrong());
        }
        if octets[0] & GROUP != 0 || octets == [0; 6] {
            return Err(format!(
                "\"{text}\" is no address that a network card can have: its first octet must be even, and not all be zero"
            ));
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_six_octets_of_one_card() {
        let mac: MacAddress = "06:00:AC:10:00:02".parse().expect("address");
        assert_eq!((mac.octets(), mac.to_string().as_str()), ([6, 0, 172, 16, 0, 2], "06:00:ac:10:00:02"));
        for text in [
            "",
            "1:2:3:4:5:6",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "02-00-00-00-00-00",
            "+2:00:00:00:00:00",
            "0g:00:00:00:00:00",
        ] {
            assert!(text.parse::<MacAddress>().expect_err(text).contains("is no MAC address"), "{text}");
        }
        for text in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert!(
                text.parse::<MacAddress>().expect_err(text).contains("a network card can have"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_derived_stays_and_differs() {
        let mac = MacAddress::derive("vm-1", "tap0");
        // It must never change: guests remember their network cards by it.
        assert_eq!(mac.to_string(), "7a:fe:29:02:23:b0");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        let others = [("vm-1", "tap1"), ("vm-2", "tap0"), ("vm-1t", "ap0"), ("", "")];
        for (guest, interface) in others {
            assert_ne!(MacAddress::derive(guest, interface), mac);
        }
    }
}
