//! The pools of servers that requests are forwarded to.

/// A named pool of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its id.
    pub id: Box<str>,
    /// Its servers.
    pub peers: Vec<Peer>,
    /// What they speak.
    pub protocol: Protocol,
    /// Whether they speak TLS.
    pub tls: bool,
    /// The server name for TLS; empty: the peer's host.
    pub sni: Box<str>,
    /// Milliseconds to connect.
    pub connect_timeout_ms: u64,
    /// Milliseconds between two reads.
    pub read_timeout_ms: u64,
    /// Milliseconds between two writes.
    pub write_timeout_ms: u64,
    /// Milliseconds an unused connection is kept.
    pub idle_timeout_ms: u64,
    /// Further tries after a failure to connect.
    pub retries: u32,
    /// Active health check; `None`: every peer counts as healthy.
    pub health: Option<Health>,
}

/// What the servers of a pool speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, which gRPC needs: by ALPN over TLS, with prior knowledge without.
    Http2,
}

/// One server of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `HOST:PORT`.
    pub address: Box<str>,
    /// Its share of the requests, relative to its siblings.
    pub weight: u32,
}

/// How a server's health is probed: `GET path`, any 2xx is healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The path to ask.
    pub path: Box<str>,
    /// Milliseconds between probes.
    pub interval_ms: u64,
    /// Milliseconds a probe may take.
    pub timeout_ms: u64,
    /// Successes in a row after which a peer is healthy again.
    pub healthy_after: u32,
    /// Failures in a row after which it is not.
    pub unhealthy_after: u32,
}
