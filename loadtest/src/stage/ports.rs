//! Ports that stay free while nobody listens on them.
//!
//! A server that is killed must find its port again. One from the range out of which the system
//! gives ports to outgoing connections could be taken meanwhile; worse, a client that connects
//! again and again to such a port while nobody listens is at some time given that very port, and
//! is then connected to itself. So ports are taken from outside that range.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;

use crate::random::Random;

/// What Linux gives to outgoing connections unless told otherwise.
const USUAL_OUTGOING: RangeInclusive<u16> = 32_768..=60_999;
/// Below are the ports of well-known services.
const FIRST: u16 = 12_000;
const ATTEMPTS: usize = 10_000;

/// So many different ports that are free on the loopback interface now.
pub(super) fn free(count: usize) -> io::Result<Vec<u16>> {
    let outgoing = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| parse(&text))
        .unwrap_or(USUAL_OUTGOING);
    let mut random = Random::new(Random::seed());
    // All are held until the last is found, so that they differ.
    let mut held = Vec::new();
    for _ in 0..ATTEMPTS {
        if held.len() == count {
            break;
        }
        let port = random.within(u64::from(FIRST)..65_536) as u16;
        if outgoing.contains(&port) {
            continue;
        }
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
    }
    if held.len() < count {
        return Err(io::Error::from(io::ErrorKind::AddrInUse));
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let (low, high) = text.trim().split_once(char::is_whitespace)?;
    let (low, high): (u16, u16) = (low.parse().ok()?, high.trim().parse().ok()?);
    // A range that leaves no port to take is ignored.
    (low > FIRST || high < u16::MAX).then_some(low..=high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_no_outgoing_connection_is_given_them() {
        let ports = free(4).expect("some port is free");
        let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), 4);
        assert_eq!(parse("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(parse("1 65535\n"), None);
        assert_eq!(parse("?"), None);
    }
}
