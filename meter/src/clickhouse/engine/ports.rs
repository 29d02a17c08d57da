//! Free ports on the loopback interface.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// The two ports an engine listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) http: u16,
    pub(super) tcp: u16,
}

impl Ports {
    /// The wanted ports, with each 0 replaced by one that is free now. Another process may take it
    /// before the engine does: the caller retries.
    pub(super) fn pick(http: u16, tcp: u16) -> io::Result<Self> {
        // Both listeners live until both ports are known, so that the two differ.
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (http_listener, tcp_listener) = (free()?, free()?);
        let chosen = |wanted: u16, listener: &TcpListener| -> io::Result<u16> {
            Ok(if wanted == 0 { listener.local_addr()?.port() } else { wanted })
        };
        Ok(Self { http: chosen(http, &http_listener)?, tcp: chosen(tcp, &tcp_listener)? })
    }
}
