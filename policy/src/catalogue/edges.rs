//! Routes and the upstream pools they lead to.

use super::index::{Broken, Index};
use super::products::Products;
use crate::diagnostics::{Findings, Place};
use crate::documents::{HealthDoc, PeerDoc, RouteDoc, UpstreamDoc};
use crate::meters::{DEFAULT_METER, MeterId};
use crate::snapshot::{
    BitSet, Health, Peer, Route, RouteIndex, RouteTable, RouteTableBuilder, Upstream,
};

pub(super) struct Upstreams<'d> {
    pub(super) upstreams: Vec<Upstream>,
    ids: Index<'d>,
}

impl<'d> Upstreams<'d> {
    pub(super) fn build<'i: 'd>(docs: &'d [UpstreamDoc<'i>], findings: &mut Findings) -> Self {
        let ids = Index::build("upstream", docs.iter().map(|doc| &doc.id), findings);
        Upstreams { upstreams: docs.iter().map(upstream).collect(), ids }
    }
}

fn upstream(doc: &UpstreamDoc<'_>) -> Upstream {
    let peer =
        |peer: &PeerDoc<'_>| Peer { address: (*peer.address.value).into(), weight: peer.weight };
    let health = |health: &HealthDoc<'_>| Health {
        path: (*health.path).into(),
        interval_ms: health.interval_ms,
        timeout_ms: health.timeout_ms,
        healthy_after: health.healthy_after,
        unhealthy_after: health.unhealthy_after,
    };
    Upstream {
        id: (*doc.id.value).into(),
        peers: doc.peers.iter().map(peer).collect(),
        protocol: doc.protocol,
        tls: doc.tls,
        sni: doc.sni.as_deref().unwrap_or_default().into(),
        connect_timeout_ms: doc.connect_timeout_ms,
        read_timeout_ms: doc.read_timeout_ms,
        write_timeout_ms: doc.write_timeout_ms,
        idle_timeout_ms: doc.idle_timeout_ms,
        retries: doc.retries,
        health: doc.health.as_ref().map(health),
    }
}

pub(crate) struct Routes<'d> {
    pub(super) routes: Vec<Route>,
    pub(super) table: RouteTable,
    pub(super) ids: Index<'d>,
}

impl<'d> Routes<'d> {
    pub(super) fn build<'i: 'd>(
        docs: &'d [RouteDoc<'i>],
        products: &Products<'_>,
        upstreams: &Upstreams<'_>,
        broken: &Broken<'_>,
        findings: &mut Findings,
    ) -> Self {
        let ids = Index::build("route", docs.iter().map(|doc| &doc.id), findings);
        let mut table = RouteTableBuilder::default();
        let mut routes = Vec::with_capacity(docs.len());
        for (index, doc) in (0..).zip(docs) {
            let id = &*doc.id.value;
            let key = |field: &str| format!("route.{id}.{field}");
            let app = products.app_ids.refer(&doc.app, || key("app"), broken, findings);
            let upstream = upstreams.ids.refer(&doc.upstream, || key("upstream"), broken, findings);
            let feature = doc.feature.as_ref();
            let feature =
                feature.and_then(|name| products.feature(name, || key("feature"), findings));
            check_host(doc, findings);
            let methods: Vec<_> = doc.methods.iter().flatten().map(|m| &*m.value).collect();
            let host = doc.host.as_ref().map(|host| &*host.value);
            if doc.clean && !table.add(host, &doc.path.value, &methods, RouteIndex(index)) {
                let message = "another route has the same host, path and method";
                findings.add(doc.path.place, key("path"), message);
            }
            routes.push(Route {
                id: id.into(),
                app: app.unwrap_or_default(),
                upstream: upstream.unwrap_or_default(),
                meter: doc.meter.as_ref().map_or(DEFAULT_METER, |meter| &*meter.value).into(),
                // Known once the meters are.
                meter_id: MeterId(0),
                measured: Box::default(),
                distinct: Box::default(),
                counts_on: BitSet::default(),
                levels: Box::default(),
                units: 0,
                cost: doc.cost,
                tier: doc.tier,
                feature,
            });
        }
        Routes { routes, table: table.build(), ids }
    }

    /// The routes of an app.
    pub(super) fn of_app(&self, app: u32, set: &mut BitSet) {
        for (index, _) in (0..).zip(&self.routes).filter(|(_, route)| route.app == app) {
            set.insert(index);
        }
    }
}

fn check_host(doc: &RouteDoc<'_>, findings: &mut Findings) {
    let Some(host) = &doc.host else { return };
    let place: Place = host.place;
    let name = host.value.strip_prefix("*.").unwrap_or(&host.value);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
    if name.is_empty() || name.len() > 253 || !name.bytes().all(allowed) {
        let message = "a host is a name such as `api.example.com` or `*.example.com`, no port";
        findings.add(place, format!("route.{}.host", doc.id.value), message);
    }
}
