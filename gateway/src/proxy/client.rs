//! Who the client is: its address, behind proxies that are trusted.
//!
//! An IPv4 address in the clothes of IPv6 (`::ffff:a.b.c.d`), as a listener for both sees it, is the
//! IPv4 address.

use std::net::{IpAddr, SocketAddr};

use pingora::proxy::Session;

use crate::settings::Cidr;

/// The address of the client: the connection's, or behind trusted proxies the nearest one in
/// `X-Forwarded-For` that is not theirs.
pub(super) fn address(session: &Session, trusted: &[Cidr]) -> IpAddr {
    let peer = session.client_addr().and_then(|address| address.as_inet()).map(SocketAddr::ip);
    let peer = peer.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let lines = session.req_header().headers.get_all("x-forwarded-for").iter();
    nearest(peer, lines.map(http::HeaderValue::as_bytes), trusted)
}

/// The first address, from the connection's on back through what proxies noted, that is not trusted.
fn nearest<'l>(
    peer: IpAddr,
    lines: impl DoubleEndedIterator<Item = &'l [u8]>,
    trusted: &[Cidr],
) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut nearest = peer.to_canonical();
    if trusted.is_empty() || !is_trusted(nearest) {
        return nearest;
    }
    for hop in lines.rev().flat_map(|line| line.rsplit(|byte| *byte == b',')) {
        // Beyond what cannot be read nothing can be believed: the client may have written it.
        let Some(address) = hop_address(hop) else { break };
        nearest = address;
        if !is_trusted(address) {
            break;
        }
    }
    nearest
}

/// `1.2.3.4`, `1.2.3.4:5678`, `2001:db8::1` or `[2001:db8::1]:5678`.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address: Option<IpAddr> = hop.parse().ok().or_else(with_port).or_else(bracketed);
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_nearest_that_is_no_trusted_proxy() {
        let trusted: Vec<Cidr> = ["10.0.0.0/8", "fd00::/8"]
            .iter()
            .map(|text| text.parse().expect("a network"))
            .collect();
        for (peer, lines, expected) in [
            ("198.51.100.7", &["203.0.113.9"][..], "198.51.100.7"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9, 10.2.2.2", "[fd00::1]:80 , 10.1.1.1:9"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9", "unknown, 10.1.1.1"], "10.1.1.1"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            // As a socket for both families tells it.
            ("::ffff:198.51.100.7", &[], "198.51.100.7"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["[::ffff:203.0.113.9]:5"], "203.0.113.9"),
        ] {
            let lines = lines.iter().map(|line| line.as_bytes());
            let address = nearest(peer.parse().expect("an address"), lines, &trusted);
            assert_eq!(address.to_string(), expected, "{peer}");
        }
    }
}
