//! Upstream pools: which server gets the next request, and which are healthy.
//!
//! A pool outlives the policy that named it: a reload that leaves an upstream's table as it was
//! keeps its connections' peers, its place in the rotation and what is known of its health.

mod health;
mod wheel;

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orbit_policy::Snapshot;
use orbit_policy::snapshot::{Protocol, Upstream};
use pingora::upstreams::peer::HttpPeer;

pub use health::{HealthChecks, Probe};

/// Requests on one HTTP/2 connection to a server at a time, at most; a server may allow fewer.
const MAX_STREAMS: usize = 100;

/// One pool in use.
pub struct Pool {
    definition: Upstream,
    servers: Vec<Server>,
    /// Indexes of servers, each as often as its weight, evenly spread.
    wheel: Box<[u16]>,
    next: AtomicUsize,
}

struct Server {
    address: Box<str>,
    /// Made once: connecting details do not change between requests. None: no such host.
    peer: Option<HttpPeer>,
    healthy: AtomicBool,
}

/// Health of one server, for `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHealth {
    /// The pool.
    pub upstream: String,
    /// `HOST:PORT`.
    pub address: String,
    /// Whether it gets requests.
    pub healthy: bool,
}

impl Pool {
    fn new(definition: Upstream) -> Pool {
        let server = |peer: &orbit_policy::snapshot::Peer| {
            let http_peer =
                resolve(&peer.address).map(|to| http_peer(to, &peer.address, &definition));
            if http_peer.is_none() {
                tracing::warn!(
                    upstream = &*definition.id,
                    address = &*peer.address,
                    "the address does not resolve; it is tried again when the policy changes"
                );
            }
            let healthy = AtomicBool::new(http_peer.is_some());
            Server { address: peer.address.clone(), peer: http_peer, healthy }
        };
        let servers: Vec<_> = definition.peers.iter().map(server).collect();
        let weights: Vec<u32> = definition.peers.iter().map(|peer| peer.weight).collect();
        Pool { wheel: wheel::spread(&weights), servers, definition, next: AtomicUsize::new(0) }
    }

    /// The server for the next request: the next healthy one, or where none is, simply the next,
    /// as a health check may be wrong and an answer of 502 is certain otherwise. `None`: no
    /// server of this pool has an address.
    pub fn pick(&self) -> Option<&HttpPeer> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = |step: usize| {
            let index = self.wheel[(start.wrapping_add(step)) % self.wheel.len()];
            &self.servers[usize::from(index)]
        };
        let steps = 0..self.wheel.len();
        let healthy = steps.clone().map(turn).find(|s| s.healthy.load(Ordering::Relaxed));
        healthy
            .and_then(|server| server.peer.as_ref())
            .or_else(|| steps.map(turn).find_map(|server| server.peer.as_ref()))
    }

    /// Further tries after a failure to connect.
    pub fn retries(&self) -> u32 {
        self.definition.retries
    }
}

fn resolve(address: &str) -> Option<SocketAddr> {
    address.to_socket_addrs().ok()?.next()
}

fn http_peer(to: SocketAddr, address: &str, upstream: &Upstream) -> HttpPeer {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let sni = if upstream.sni.is_empty() { host } else { &upstream.sni };
    let sni = if upstream.tls { sni.to_owned() } else { String::new() };
    let mut peer = HttpPeer::new(to, upstream.tls, sni);
    if upstream.protocol == Protocol::Http2 {
        // Over TLS it is the only protocol offered, in cleartext it is spoken without asking.
        peer.options.set_http_version(2, 2);
        peer.options.max_h2_streams = MAX_STREAMS;
    }
    let ms = |ms| Some(Duration::from_millis(ms));
    peer.options.connection_timeout = ms(upstream.connect_timeout_ms);
    peer.options.total_connection_timeout = ms(upstream.connect_timeout_ms);
    peer.options.read_timeout = ms(upstream.read_timeout_ms);
    peer.options.write_timeout = ms(upstream.write_timeout_ms);
    peer.options.idle_timeout = ms(upstream.idle_timeout_ms);
    peer
}

/// Every pool in use, by its definition.
#[derive(Default)]
pub struct Pools {
    pools: Mutex<Vec<Arc<Pool>>>,
}

impl Pools {
    /// The pools of a snapshot, in the order of [`Snapshot::upstreams`]. Pools that are defined
    /// as before are the same pools; pools that are gone end with their last request.
    pub fn of(&self, snapshot: &Snapshot) -> Vec<Arc<Pool>> {
        let mut known = self.pools.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let pool = |upstream: &Upstream| {
            // A server that did not resolve is tried again.
            let whole = |pool: &Pool| pool.servers.iter().all(|server| server.peer.is_some());
            let same = |pool: &&Arc<Pool>| pool.definition == *upstream && whole(pool);
            let kept = known.iter().find(same).map(Arc::clone);
            kept.unwrap_or_else(|| Arc::new(Pool::new(upstream.clone())))
        };
        let pools: Vec<_> = snapshot.upstreams().iter().map(pool).collect();
        known.clone_from(&pools);
        pools
    }

    fn all(&self) -> Vec<Arc<Pool>> {
        self.pools.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Health of every server of every pool in use.
    pub fn health(&self) -> Vec<ServerHealth> {
        let of_pool = |pool: Arc<Pool>| {
            let server = |server: &Server| ServerHealth {
                upstream: pool.definition.id.to_string(),
                address: server.address.to_string(),
                healthy: server.healthy.load(Ordering::Relaxed),
            };
            pool.servers.iter().map(server).collect::<Vec<_>>()
        };
        self.all().into_iter().flat_map(of_pool).collect()
    }
}

#[cfg(test)]
mod tests {
    use orbit_policy::quota::InMemory;
    use orbit_policy::{Policy, PolicySettings, Source};
    use pingora::protocols::ALPN;
    use pingora::upstreams::peer::Peer;

    use super::*;

    #[test]
    fn a_pool_offers_its_servers_its_own_protocol_and_no_other() {
        let text = "[[upstream]]\nid = \"h1\"\npeers = [{ address = \"127.0.0.1:1\" }]\n\
            [[upstream]]\nid = \"h2\"\nprotocol = \"http2\"\ntls = true\nsni = \"x.example\"\n\
            peers = [{ address = \"127.0.0.1:1\" }]\n";
        let source = Source { file: "t.toml".into(), text: text.into() };
        let settings =
            PolicySettings { max_dynamic_keys: 1, hash_key: [0; 16], memory: InMemory::shared() };
        let policy = Policy::new(&[source], &settings).expect("a valid document");
        let pools = Pools::default().of(&policy.load());
        let alpn = |pool: &Pool| pool.pick().and_then(|peer| peer.get_alpn().cloned());
        assert_eq!(alpn(&pools[0]), Some(ALPN::H1));
        assert_eq!(alpn(&pools[1]), Some(ALPN::H2));
        assert_eq!(pools[1].pick().map(HttpPeer::sni), Some("x.example"));
    }
}
