//! Who the client is: its address, behind proxies that are trusted.

use std::net::{IpAddr, SocketAddr};

use pingora::proxy::Session;

use crate::settings::Cidr;

/// The address of the client: the connection's, or behind trusted proxies the nearest one in
/// `X-Forwarded-For` that is not theirs.
pub(super) fn address(session: &Session, trusted: &[Cidr]) -> IpAddr {
    let peer = session.client_addr().and_then(|address| address.as_inet()).map(SocketAddr::ip);
    let peer = peer.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if trusted.is_empty() || !is_trusted(peer) {
        return peer;
    }
    let lines: Vec<_> = session.req_header().headers.get_all("x-forwarded-for").iter().collect();
    let mut nearest = peer;
    for hop in lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
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
    hop.parse().ok().or_else(with_port).or_else(bracketed)
}
