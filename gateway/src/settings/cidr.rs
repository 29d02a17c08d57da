//! A network in CIDR notation: which addresses belong to it.
//!
//! Owns parsing `10.0.0.0/8`, `2001:db8::/32` or a single address, and membership. Guarantees that
//! an IPv4 client seen through a dual-stack socket (`::ffff:10.1.2.3`) matches IPv4 networks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Visitor};

/// A network of IPv4 or IPv6 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix_bits: u8,
}

/// The text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// The part before the slash is not an IP address.
    #[error("`{0}` is not an IP address or a network such as 10.0.0.0/8")]
    Address(String),
    /// The part after the slash is not a prefix length of that family.
    #[error("the prefix length of `{text}` must be a number from 0 to {most}")]
    Prefix {
        /// The network as written.
        text: String,
        /// The longest prefix of the address family, in bits.
        most: u8,
    },
    /// Bits after the prefix are set, so the author may have meant another network.
    #[error("`{text}` has bits set after its prefix; the network is {network}")]
    HostBits {
        /// The network as written.
        text: String,
        /// The network it lies in.
        network: Cidr,
    },
}

impl Cidr {
    /// Whether `address` belongs to this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(address.to_canonical(), self.prefix_bits) == Some(self.address)
    }
}

/// `address` with the bits after the prefix cleared; none when the prefix is too long for it.
fn masked(address: IpAddr, prefix_bits: u8) -> Option<IpAddr> {
    let prefix = u32::from(prefix_bits);
    match address {
        IpAddr::V4(v4) => {
            let host = 32_u32.checked_sub(prefix)?;
            let mask = u32::MAX.checked_shl(host).unwrap_or(0);
            Some(IpAddr::V4((v4.to_bits() & mask).into()))
        }
        IpAddr::V6(v6) => {
            let host = 128_u32.checked_sub(prefix)?;
            let mask = u128::MAX.checked_shl(host).unwrap_or(0);
            Some(IpAddr::V6((v6.to_bits() & mask).into()))
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let (address_text, prefix_text) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr =
            address_text.parse().map_err(|_| CidrError::Address(text.to_owned()))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = || CidrError::Prefix { text: text.to_owned(), most };
        let prefix_bits = match prefix_text {
            Some(digits) => digits.parse::<u8>().map_err(|_| prefix())?,
            None => most,
        };
        let network = masked(address, prefix_bits).ok_or_else(prefix)?;
        let cidr = Cidr { address: network, prefix_bits };
        if network == address {
            Ok(cidr)
        } else {
            Err(CidrError::HostBits { text: text.to_owned(), network: cidr })
        }
    }
}

/// Parsed where the text stands, so that an error in a list is placed at its element.
impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cidr, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Cidr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a network such as \"10.0.0.0/8\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Cidr, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a network")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn membership_follows_the_prefix() {
        assert!(cidr("10.0.0.0/8").contains(ip("10.255.0.1")));
        assert!(!cidr("10.0.0.0/8").contains(ip("11.0.0.1")));
        assert!(cidr("0.0.0.0/0").contains(ip("203.0.113.9")));
        assert!(!cidr("0.0.0.0/0").contains(ip("2001:db8::1")));
        assert!(cidr("2001:db8::/32").contains(ip("2001:db8:1::5")));
        assert!(cidr("::/0").contains(ip("2001:db8:1::5")));
        assert!(cidr("192.0.2.7").contains(ip("192.0.2.7")));
        assert!(!cidr("192.0.2.7").contains(ip("192.0.2.8")));
    }

    #[test]
    fn a_mapped_address_is_an_ipv4_address() {
        assert!(cidr("10.0.0.0/8").contains(ip("::ffff:10.1.2.3")));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(matches!("ten".parse::<Cidr>(), Err(CidrError::Address(_))));
        assert!(matches!("10.0.0.0/33".parse::<Cidr>(), Err(CidrError::Prefix { most: 32, .. })));
        assert!(matches!("::/x".parse::<Cidr>(), Err(CidrError::Prefix { most: 128, .. })));
        let error = "10.1.0.0/8".parse::<Cidr>().expect_err("host bits");
        assert_eq!(
            error.to_string(),
            "`10.1.0.0/8` has bits set after its prefix; the network is 10.0.0.0/8"
        );
    }
}
