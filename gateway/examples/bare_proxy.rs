//! A pingora proxy that does nothing but forward: what Orbit's cost per request is measured
//! against. Same allocator, threads, runtime, timeouts and upstream pool size; no identity, no
//! limits, no record.
//!
//! `bare_proxy LISTEN UPSTREAM [THREADS]` prints the address it listens on and serves until
//! standard input ends.
#![allow(clippy::print_stdout, reason = "its one line of output is the address")]

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use pingora::apps::HttpServerOptions;
use pingora::proxy::{ProxyHttp, Session, http_proxy};
use pingora::server::Fds;
use pingora::server::configuration::ServerConf;
use pingora::services::Service as _;
use pingora::services::listening::Service;
use pingora::upstreams::peer::HttpPeer;
use pingora_runtime::Runtime;

#[global_allocator]
static ALLOCATOR: jemallocator::Jemalloc = jemallocator::Jemalloc;

struct Bare(HttpPeer);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    fn init_downstream_modules(&self, _modules: &mut pingora::modules::http::HttpModules) {}

    async fn early_request_filter(
        &self,
        session: &mut Session,
        _ctx: &mut (),
    ) -> pingora::Result<()> {
        session.set_read_timeout(Some(Duration::from_secs(30)));
        session.set_write_timeout(Some(Duration::from_secs(30)));
        session.set_keepalive(Some(60));
        Ok(())
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut (),
    ) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(self.0.clone()))
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: bare_proxy LISTEN UPSTREAM [THREADS]";
    let address: SocketAddr = arguments.next().context(usage)?.parse()?;
    let upstream: SocketAddr = arguments.next().context(usage)?.parse()?;
    let threads = arguments.next().map_or(Ok(2), |threads| threads.parse())?;

    let mut peer = HttpPeer::new(upstream, false, String::new());
    peer.options.connection_timeout = Some(Duration::from_secs(1));
    peer.options.total_connection_timeout = Some(Duration::from_secs(1));
    peer.options.read_timeout = Some(Duration::from_secs(30));
    peer.options.write_timeout = Some(Duration::from_secs(30));
    peer.options.idle_timeout = Some(Duration::from_mins(1));

    let conf = ServerConf { threads, work_stealing: false, ..ServerConf::default() };
    let mut proxy = http_proxy(&Arc::new(conf), Bare(peer));
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    proxy.server_options = Some(options);
    let mut service = Service::new("bare".to_owned(), proxy);

    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let mut fds = Fds::new();
    fds.add(address.to_string(), listener.into_raw_fd());
    service.add_tcp(&address.to_string());

    let runtime = Runtime::new_no_steal(threads, "bare");
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let fds = Arc::new(parking_lot::Mutex::new(fds));
    runtime.get_handle().spawn(async move {
        service.start_service(Some(fds), stopped, 1).await;
    });
    println!("{address}");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    Ok(())
}
