//! A pool of servers as written.

use super::fields::{Fields, Located, Text};
use crate::snapshot::Protocol;

#[derive(Debug)]
pub(crate) struct UpstreamDoc<'i> {
    pub(crate) id: Located<Text<'i>>,
    pub(crate) peers: Vec<PeerDoc<'i>>,
    pub(crate) protocol: Protocol,
    pub(crate) tls: bool,
    pub(crate) sni: Option<Text<'i>>,
    pub(crate) connect_timeout_ms: u64,
    pub(crate) read_timeout_ms: u64,
    pub(crate) write_timeout_ms: u64,
    pub(crate) idle_timeout_ms: u64,
    pub(crate) retries: u32,
    pub(crate) health: Option<HealthDoc<'i>>,
}

#[derive(Debug)]
pub(crate) struct PeerDoc<'i> {
    pub(crate) address: Located<Text<'i>>,
    pub(crate) weight: u32,
}

#[derive(Debug)]
pub(crate) struct HealthDoc<'i> {
    pub(crate) path: Text<'i>,
    pub(crate) interval_ms: u64,
    pub(crate) timeout_ms: u64,
    pub(crate) healthy_after: u32,
    pub(crate) unhealthy_after: u32,
}

const MAX_MS: u64 = 24 * 3_600_000;
const PROTOCOLS: &[(&str, Protocol)] = &[("http1", Protocol::Http1), ("http2", Protocol::Http2)];

impl<'i> UpstreamDoc<'i> {
    pub(crate) fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let id = fields.id("id");
        let peers = fields.tables("peers", PeerDoc::read);
        let none = peers.as_ref().is_none_or(|peers| peers.value.is_empty());
        // A peer that is there but wrong has a finding of its own.
        if none && !fields.has_failed() {
            fields.find(fields.place, "peers", "an upstream needs at least one peer");
        }
        let protocol = fields.word("protocol", PROTOCOLS).map(|protocol| protocol.value);
        let tls = fields.boolean("tls").unwrap_or(false);
        let sni = fields.text("sni").map(|sni| sni.value);
        let mut ms = |key, default| fields.integer(key, 1, MAX_MS).map_or(default, |ms| ms.value);
        let connect_timeout_ms = ms("connect_timeout_ms", 1_000);
        let read_timeout_ms = ms("read_timeout_ms", 30_000);
        let write_timeout_ms = ms("write_timeout_ms", 30_000);
        let idle_timeout_ms = ms("idle_timeout_ms", 60_000);
        let retries = fields.integer("retries", 0, 10).map_or(1, |n| n.value as u32);
        let health = fields.table("health", HealthDoc::read);
        fields.finish();
        let (id, peers) = (id?, peers?);
        Some(UpstreamDoc {
            id,
            peers: peers.value,
            protocol: protocol.unwrap_or_default(),
            tls,
            sni,
            connect_timeout_ms,
            read_timeout_ms,
            write_timeout_ms,
            idle_timeout_ms,
            retries,
            health,
        })
    }
}

impl<'i> PeerDoc<'i> {
    fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let address = fields.required_text("address");
        let weight = fields.integer("weight", 1, 1_000).map_or(1, |weight| weight.value as u32);
        if let Some(address) = &address
            && !is_host_port(&address.value)
        {
            fields.find(address.place, "address", "is not HOST:PORT");
        }
        let clean = fields.finish();
        let address = address.filter(|_| clean)?;
        Some(PeerDoc { address, weight })
    }
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

impl<'i> HealthDoc<'i> {
    fn read(mut fields: Fields<'_, 'i, '_>) -> Option<Self> {
        let path = fields.text("path").map_or(Text::Borrowed("/"), |path| path.value);
        let mut ms = |key, default| fields.integer(key, 10, MAX_MS).map_or(default, |ms| ms.value);
        let interval_ms = ms("interval_ms", 2_000);
        let timeout_ms = ms("timeout_ms", 1_000);
        let mut count = |key| fields.integer(key, 1, 100).map_or(2, |count| count.value as u32);
        let healthy_after = count("healthy_after");
        let unhealthy_after = count("unhealthy_after");
        let clean = fields.finish();
        clean.then_some(HealthDoc { path, interval_ms, timeout_ms, healthy_after, unhealthy_after })
    }
}
