//! Active health checks: `GET path` on every server of every pool that asks for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use orbit_policy::snapshot::{Health, Protocol};

use super::{Pool, Pools, Server};

/// The wheel of checks turns this often.
const TICK: Duration = Duration::from_millis(50);

/// Results in a row of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    successes: u32,
    failures: u32,
    due_in_ms: u64,
}

impl Probe {
    /// Counts a result. `Some`: the server's health is now known to be this.
    pub fn count(&mut self, success: bool, health: &Health) -> Option<bool> {
        if success {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            (self.successes >= health.healthy_after).then_some(true)
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            (self.failures >= health.unhealthy_after).then_some(false)
        }
    }
}

type Probes = HashMap<(Box<str>, Box<str>), Probe>;

/// Checks every pool in use, as reloads make and end them. Runs until dropped or cancelled.
pub struct HealthChecks {
    pools: Arc<Pools>,
    http1: Client<HttpConnector, Empty<Bytes>>,
    http2: Client<HttpConnector, Empty<Bytes>>,
    probes: Probes,
}

impl HealthChecks {
    /// Checks for these pools.
    pub fn new(pools: Arc<Pools>) -> HealthChecks {
        let mut client = Client::builder(TokioExecutor::new());
        let http1 = client.build_http();
        let http2 = client.http2_only(true).build_http();
        HealthChecks { pools, http1, http2, probes: Probes::new() }
    }

    /// Checks for ever.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.round().await;
        }
    }

    async fn round(&mut self) {
        let mut due = Vec::new();
        let mut known = Probes::new();
        for pool in self.pools.all() {
            let Some(health) = pool.definition.health.clone() else { continue };
            for (index, server) in pool.servers.iter().enumerate() {
                let key = (pool.definition.id.clone(), server.address.clone());
                let mut probe = self.probes.get(&key).copied().unwrap_or_default();
                probe.due_in_ms = probe.due_in_ms.saturating_sub(TICK.as_millis() as u64);
                if probe.due_in_ms == 0 {
                    probe.due_in_ms = health.interval_ms;
                    due.push((key.clone(), Arc::clone(&pool), index));
                }
                known.insert(key, probe);
            }
        }
        self.probes = known;
        let asked = due.iter().map(|(_, pool, index)| self.ask(pool, &pool.servers[*index]));
        let results = join_all(asked).await;
        for ((key, pool, index), success) in due.into_iter().zip(results) {
            let (Some(health), Some(probe)) = (&pool.definition.health, self.probes.get_mut(&key))
            else {
                continue;
            };
            if let Some(healthy) = probe.count(success, health) {
                settle(&pool, &pool.servers[index], healthy);
            }
        }
    }

    /// Whether the server answers 2xx in time. A pool that speaks TLS is asked for a connection.
    async fn ask(&self, pool: &Pool, server: &Server) -> bool {
        let Some(health) = &pool.definition.health else { return true };
        let limit = Duration::from_millis(health.timeout_ms);
        if pool.definition.tls {
            let connect = tokio::net::TcpStream::connect(&*server.address);
            return matches!(tokio::time::timeout(limit, connect).await, Ok(Ok(_)));
        }
        let Ok(uri) = format!("http://{}{}", server.address, health.path).parse() else {
            return false;
        };
        let client = match pool.definition.protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        };
        match tokio::time::timeout(limit, client.get(uri)).await {
            Ok(Ok(answer)) => answer.status().is_success(),
            _ => false,
        }
    }
}

fn settle(pool: &Pool, server: &Server, healthy: bool) {
    if server.peer.is_some() && server.healthy.swap(healthy, Ordering::Relaxed) != healthy {
        let (upstream, address) = (&*pool.definition.id, &*server.address);
        if healthy {
            tracing::info!(upstream, address, "the server is healthy again");
        } else {
            tracing::warn!(upstream, address, "the server is unhealthy and gets no requests");
        }
    }
}

/// All of them at once; there are as many as servers.
async fn join_all<F: Future<Output = bool>>(asked: impl Iterator<Item = F>) -> Vec<bool> {
    let mut asked: Vec<_> = asked.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for (future, result) in &mut asked {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(success) => *result = Some(success),
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    asked.into_iter().filter_map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::Probe;
    use orbit_policy::snapshot::Health;

    #[test]
    fn health_turns_after_as_many_results_in_a_row_as_asked() {
        let health = Health {
            path: "/".into(),
            interval_ms: 1,
            timeout_ms: 1,
            healthy_after: 2,
            unhealthy_after: 3,
        };
        let mut probe = Probe::default();
        let results = [false, false, true, false, false, false, true, true];
        let known: Vec<_> = results.map(|success| probe.count(success, &health)).into();
        let none = None;
        assert_eq!(known, [none, none, none, none, none, Some(false), none, Some(true)]);
    }
}
