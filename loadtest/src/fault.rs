//! A TCP proxy that misbehaves on demand: what stands between the gateway and ClickHouse.
//!
//! It passes bytes both ways until it is told otherwise, and then does to every connection, those
//! that are open included, what [`Fault`] says. It knows nothing of what it carries, and counts
//! what it did.

mod connection;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::stage::serving::Serving;

/// What is done to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// They are reset, and new ones refused.
    Refuse,
    /// No byte moves, in either direction.
    Stall,
    /// Each is reset once so many bytes of requests have gone through.
    Cut {
        /// Bytes that still pass.
        after_bytes: u64,
    },
    /// Requests pass; each connection is reset when the first byte of an answer comes, so that
    /// what was asked for has been done and nobody is told.
    Swallow,
    /// Bytes wait so long before they go on.
    Delay(Duration),
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FaultTally {
    /// Connections accepted.
    pub connections: u64,
    /// Connections reset on purpose.
    pub resets: u64,
    /// Of these, in the middle of a request.
    pub cut: u64,
    /// Of these, in place of an answer.
    pub swallowed: u64,
}

/// What the connections look at: the fault, and how often everything was reset.
#[derive(Clone, Copy, Debug)]
struct Order {
    fault: Fault,
    resets: u64,
}

/// Counters of [`FaultTally`].
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    resets: AtomicU64,
    cut: AtomicU64,
    swallowed: AtomicU64,
}

/// A running proxy; it ends, with every connection through it, when it is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    order: watch::Sender<Order>,
    counts: Arc<Counts>,
    _serving: Serving,
}

impl FaultProxy {
    /// Starts a proxy on 127.0.0.1:`port` to `server`.
    pub fn start(port: u16, server: SocketAddr) -> io::Result<FaultProxy> {
        let (order, orders) = watch::channel(Order { fault: Fault::Pass, resets: 0 });
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let (serving, address) = Serving::start("fault-proxy", move |bound| async move {
            let bind = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
            match bind.and_then(|listener| Ok((listener.local_addr()?, listener))) {
                Ok((address, listener)) => {
                    // The starter waits for it.
                    drop(bound.send(Ok(address)));
                    serve(listener, address, server, orders, counted).await;
                }
                Err(error) => drop(bound.send(Err(error))),
            }
        })?;
        Ok(FaultProxy { address, order, counts, _serving: serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is done from now on.
    pub fn set(&self, fault: Fault) {
        self.order.send_modify(|order| {
            order.fault = fault;
            order.resets += u64::from(fault == Fault::Refuse);
        });
    }

    /// Resets every connection there is, once.
    pub fn reset(&self) {
        self.order.send_modify(|order| order.resets += 1);
    }

    /// What was done so far.
    pub fn tally(&self) -> FaultTally {
        let Counts { connections, resets, cut, swallowed } = &*self.counts;
        FaultTally {
            connections: connections.load(Ordering::Relaxed),
            resets: resets.load(Ordering::Relaxed),
            cut: cut.load(Ordering::Relaxed),
            swallowed: swallowed.load(Ordering::Relaxed),
        }
    }
}

async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    server: SocketAddr,
    mut orders: watch::Receiver<Order>,
    counts: Arc<Counts>,
) {
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        match (orders.borrow_and_update().fault, &mut listener) {
            // Only a closed listener refuses.
            (Fault::Refuse, open) => *open = None,
            (_, open @ None) => *open = TcpListener::bind(address).await.ok(),
            _ => {}
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            accepted = accepted => match accepted {
                Ok((client, _)) => {
                    counts.connections.fetch_add(1, Ordering::Relaxed);
                    let (orders, counts) = (orders.clone(), Arc::clone(&counts));
                    connections.spawn(connection::carry(client, server, orders, counts));
                }
                // Out of descriptors, most likely: give some time to come free.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests;
