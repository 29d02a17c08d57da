//! Which addresses a webhook may be sent to: those of the public internet.
//!
//! A webhook's URL is configuration, but what its name resolves to is somebody else's. A name that
//! resolves to an address inside (this machine, a private network, a cloud's metadata service) is
//! refused, and the connection is made to the very address that was looked at, so that a second
//! answer of the resolver changes nothing. An operator who means an inside address says so
//! (`allow_private`).
//!
//! Ranges: IANA IPv4 and IPv6 Special-Purpose Address Registries.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;

/// Whether an address is of the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let inside = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation();
    let special = match (a, b, c) {
        // This network; carriers' NAT; IETF protocols; 6to4 relays; benchmarks; reserved.
        (0 | 240.., ..) => true,
        (100, b, _) => (64..=127).contains(&b),
        (192, 0, c) => c == 0,
        (192, 88, c) => c == 99,
        (198, b, _) => matches!(b, 18 | 19),
        _ => false,
    };
    !inside && !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let v4 = |high: u16, low: u16| {
        let ([first, second], [third, fourth]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(first, second, third, fourth)
    };
    match address.segments() {
        // An IPv4 address in another form is what that address is.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => is_public_v4(v4(high, low)),
        // Teredo, benchmarks, ORCHID and the like; documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Global unicast; everything else is inside, reserved or multicast.
        [0x2000..=0x3fff, ..] => true,
        _ => false,
    }
}

/// A name resolves to nothing that a webhook may be sent to.
#[derive(Debug, thiserror::Error)]
#[error("the name resolves to an address inside, {0}, which `allow_private` does not permit")]
pub struct Inside(pub IpAddr);

/// Resolves names to addresses that may be connected to.
#[derive(Clone, Copy, Debug)]
pub struct GuardedResolver {
    /// Whether addresses inside are as good as any.
    pub allow_private: bool,
}

impl tower_service::Service<Name> for GuardedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // One address inside makes the name suspicious, not only the address.
            let inside = found.iter().find(|found| !is_public(found.ip()));
            match inside {
                Some(inside) if !allow_private => Err(io::Error::other(Inside(inside.ip()))),
                _ => Ok(found.into_iter()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_told_from_public_ones() {
        let inside = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b::7f00:1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "3fff::1",
            "100::1",
            "fd00:ec2::254",
            "64:ff9b:1::1",
            "5f00::1",
        ];
        for text in inside {
            assert!(!is_public(text.parse().expect("an address")), "{text}");
        }
        let public = [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.254",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::",
            "2001:4860::1",
        ];
        for text in public {
            assert!(is_public(text.parse().expect("an address")), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_for_this_machine_is_refused_unless_it_is_meant() {
        use tower_service::Service;
        let name: Name = "localhost".parse().expect("a name");
        let refused = GuardedResolver { allow_private: false }.call(name.clone()).await;
        assert!(refused.expect_err("inside").to_string().contains("allow_private"));
        let found = GuardedResolver { allow_private: true }.call(name).await.expect("it is meant");
        assert!(found.count() > 0);
    }
}
