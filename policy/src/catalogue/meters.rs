//! Meters: what tables say over what is built in, and which of them apply to which route.

use super::edges::Routes;
use super::index::{Broken, Index};
use super::products::Products;
use crate::diagnostics::{Findings, Place};
use crate::documents::{Located, MeterDoc, RouteDoc, Text};
use crate::levels::MAX_LEVELS;
use crate::meters::{
    Aggregate, DATA_IN, DATA_OUT, MAX_DISTINCT, MAX_MEASURED, Meter, MeterId, MeterValue, STORAGE,
    built_in, default_field,
};
use crate::snapshot::{BitSet, Route};

pub(crate) struct Meters {
    /// By id.
    pub(super) meters: Vec<Meter>,
    /// Data in and data out.
    pub(super) volume: [MeterId; 2],
}

/// A meter and the routes its table names.
struct Defined {
    meter: Meter,
    scope: Option<BitSet>,
    /// Where a finding about it belongs.
    place: Option<Place>,
}

impl Meters {
    /// Gives every route its lists of meters.
    pub(super) fn build<'i>(
        docs: &[MeterDoc<'i>],
        route_docs: &[RouteDoc<'i>],
        products: &Products<'_>,
        routes: &mut Routes<'_>,
        broken: &Broken<'_>,
        findings: &mut Findings,
    ) -> Meters {
        Index::build("meter", docs.iter().map(|doc| &doc.id), findings);
        let (mut defined, mut silent) = (Vec::with_capacity(docs.len()), built_in());
        for doc in docs {
            let default = silent.iter().position(|meter| *meter.id == *doc.id.value);
            let default = default.map(|index| silent.swap_remove(index));
            let meter = meter(doc, default.as_ref(), findings);
            let of_users = meter.as_ref().is_some_and(|meter| meter.value == MeterValue::EndUser);
            let scope = scope(doc, of_users, products, routes, broken, findings);
            if let Some(meter) = meter {
                defined.push(Defined { meter, scope, place: Some(doc.id.place) });
            }
        }
        let bare = |meter| Defined { meter, scope: None, place: None };
        defined.extend(silent.into_iter().map(bare));
        for doc in route_docs.iter().filter_map(|doc| doc.meter.as_ref()) {
            let is_there = |defined: &Defined| *defined.meter.id == *doc.value;
            if !defined.iter().any(is_there) && !broken.has("meter", &doc.value) {
                defined.push(bare(Meter::plain(&doc.value)));
            }
        }
        defined.sort_by(|a, b| a.meter.id.cmp(&b.meter.id));
        defined.dedup_by(|a, b| a.meter.id == b.meter.id);
        check_routes(route_docs, &defined, findings);
        for (index, route) in (0..).zip(&mut routes.routes) {
            apply(index, route, &defined, products, findings);
        }
        let find = |id| find(&defined, id).unwrap_or(MeterId(0));
        let volume = [find(DATA_IN), find(DATA_OUT)];
        Meters { meters: defined.into_iter().map(|defined| defined.meter).collect(), volume }
    }
}

impl Meters {
    /// The number of the meter with this id.
    pub(super) fn find(&self, id: &str) -> Option<MeterId> {
        let found = self.meters.binary_search_by(|meter| (*meter.id).cmp(id));
        found.ok().map(|index| MeterId(index as u32))
    }
}

fn find(defined: &[Defined], id: &str) -> Option<MeterId> {
    let found = defined.binary_search_by(|defined| (*defined.meter.id).cmp(id));
    found.ok().map(|index| MeterId(index as u32))
}

/// The meter of a table; `default` is the built-in one of its id.
fn meter(doc: &MeterDoc<'_>, default: Option<&Meter>, findings: &mut Findings) -> Option<Meter> {
    let id = &*doc.id.value;
    let key = |field: &str| format!("meter.{id}.{field}");
    let aggregate = doc.aggregate.as_ref().map(|aggregate| aggregate.value);
    let aggregate = aggregate.or(default.map(|meter| meter.aggregate));
    let value = doc.value.as_ref().map(|value| value.value.clone());
    let value = value.or(default.map(|meter| meter.value.clone()));
    if doc.clean {
        for (name, is_missing) in [("aggregate", aggregate.is_none()), ("value", value.is_none())] {
            if is_missing {
                findings.add(doc.place, key(name), "the key is missing");
            }
        }
    }
    let (aggregate, value) = (aggregate?, value?);
    if let Some(message) = unfit(aggregate, &value) {
        let place = doc.aggregate.as_ref().map_or(doc.place, |aggregate| aggregate.place);
        findings.add(place, key("aggregate"), message);
    }
    if let Some(field) = doc.field.as_ref().filter(|_| aggregate == Aggregate::Count) {
        findings.add(field.place, key("field"), "`count` counts events, whatever is in them");
    }
    let is_scoped = doc.apps.is_some() || doc.routes.is_some();
    if is_scoped && value == MeterValue::Event {
        findings.add(doc.place, key("routes"), "an event takes no route: no `apps`, no `routes`");
    }
    if id == STORAGE && aggregate != Aggregate::Gauge {
        let message =
            "is what `storage_gb` of plans is about, a gauge: give another meter another id";
        let place = doc.aggregate.as_ref().map_or(doc.place, |aggregate| aggregate.place);
        findings.add(place, key("aggregate"), message);
    }
    let fixed = default.filter(|meter| meter.is_of_columns());
    if let Some(fixed) = fixed
        && (is_scoped || aggregate != fixed.aggregate || value != fixed.value)
    {
        let message = "is the bytes of every request: give another meter another id";
        findings.add(doc.place, key("value"), message);
    }
    let text = |text: Option<&Text<'_>>, default: Option<&str>| -> Box<str> {
        text.map(|text| &**text).or(default).unwrap_or_default().into()
    };
    let field = doc.field.as_ref().map(|field| &field.value);
    Some(Meter {
        id: id.into(),
        title: text(doc.title.as_ref(), default.map(|m| &*m.title).or(Some(id))),
        unit: text(doc.unit.as_ref(), default.map(|m| &*m.unit)),
        field: text(field, Some(default_field(aggregate))),
        aggregate,
        value,
    })
}

/// Why such values do not add up in that way.
fn unfit(aggregate: Aggregate, value: &MeterValue) -> Option<&'static str> {
    use Aggregate::{Count, Distinct, Gauge, Max, Sum};
    let (fits, message) = match value {
        MeterValue::Cost => (
            matches!(aggregate, Count | Sum),
            "a route's cost is the same for each of its requests: count or sum",
        ),
        MeterValue::RequestBytes => (
            matches!(aggregate, Sum | Max | Gauge),
            "bytes are known as they flow: sum, max, or gauge where requests add to a level",
        ),
        MeterValue::ResponseBytes => {
            (matches!(aggregate, Sum | Max), "bytes are known as they flow: sum or max")
        }
        MeterValue::EndUser | MeterValue::ClientIp => {
            (aggregate == Distinct, "who asks is no number: distinct")
        }
        MeterValue::ResponseHeader(_) => (
            aggregate != Distinct,
            "who is counted must be known before a request is served: a header of the request, or \
             events",
        ),
        MeterValue::RequestHeader(_) | MeterValue::Event => return None,
    };
    (!fits).then_some(message)
}

/// The routes a table names; `None`: it names none. `of_users`: it counts end users.
fn scope(
    doc: &MeterDoc<'_>,
    of_users: bool,
    products: &Products<'_>,
    routes: &Routes<'_>,
    broken: &Broken<'_>,
    findings: &mut Findings,
) -> Option<BitSet> {
    if doc.apps.is_none() && doc.routes.is_none() {
        return None;
    }
    let key = |field: &str| format!("meter.{}.{field}", doc.id.value);
    let nameless = |app: u32, named: &Located<Text<'_>>, field: &str| {
        let app = &products.apps[app as usize];
        if of_users && app.end_user_header.is_none() {
            let message = format!("app `{}` has no `end_user_header` to know end users by", app.id);
            Some((named.place, key(field), message))
        } else {
            None
        }
    };
    let (mut set, mut found) = (BitSet::default(), Vec::new());
    for named in doc.apps.iter().flatten() {
        if let Some(app) = products.app_ids.refer(named, || key("apps"), broken, findings) {
            routes.of_app(app, &mut set);
            found.extend(nameless(app, named, "apps"));
        }
    }
    for named in doc.routes.iter().flatten() {
        if let Some(route) = routes.ids.refer(named, || key("routes"), broken, findings) {
            set.insert(route);
            found.extend(nameless(routes.routes[route as usize].app, named, "routes"));
        }
    }
    for (place, key, message) in found {
        findings.add(place, key, message);
    }
    Some(set)
}

/// A route counts its cost: on a meter of anything else that would be a figure of two kinds.
fn check_routes(docs: &[RouteDoc<'_>], defined: &[Defined], findings: &mut Findings) {
    for doc in docs {
        let Some(named) = &doc.meter else { continue };
        let meter = find(defined, &named.value).map(|id| &defined[id.0 as usize].meter);
        if let Some(meter) = meter.filter(|meter| meter.value != MeterValue::Cost) {
            let message = format!(
                "`{}` is not counted by a route's cost but by {}",
                meter.id,
                source(&meter.value)
            );
            findings.add(named.place, format!("route.{}.meter", doc.id.value), message);
        }
    }
}

/// The value for people.
fn source(value: &MeterValue) -> String {
    match value {
        MeterValue::Cost => "cost".to_owned(),
        MeterValue::RequestBytes | MeterValue::ResponseBytes => "bytes".to_owned(),
        MeterValue::EndUser => "end users".to_owned(),
        MeterValue::ClientIp => "client addresses".to_owned(),
        MeterValue::RequestHeader(name) => format!("the request's header `{name}`"),
        MeterValue::ResponseHeader(name) => format!("the answer's header `{name}`"),
        MeterValue::Event => "events".to_owned(),
    }
}

/// Works out which meters apply to a route.
fn apply(
    index: u32,
    route: &mut Route,
    defined: &[Defined],
    products: &Products<'_>,
    findings: &mut Findings,
) {
    route.meter_id = find(defined, &route.meter).unwrap_or(MeterId(0));
    let (mut measured, mut distinct) = (Vec::new(), Vec::new());
    for (id, Defined { meter, scope, place }) in (0..).map(MeterId).zip(defined) {
        let is_named = scope.as_ref().map(|scope| scope.contains(index));
        let applies = match meter.value {
            MeterValue::Event => false,
            // The row that counts the request is this meter's where the route names it.
            MeterValue::Cost => is_named == Some(true) && route.meter != meter.id,
            MeterValue::EndUser => {
                is_named.unwrap_or(true)
                    && products
                        .apps
                        .get(route.app as usize)
                        .is_some_and(|app| app.end_user_header.is_some())
            }
            _ => is_named.unwrap_or(true) && !meter.is_of_columns(),
        };
        if !applies {
            continue;
        }
        let is_gauge = |id: &&MeterId| defined[id.0 as usize].meter.aggregate == Aggregate::Gauge;
        let (list, most) = match meter.aggregate {
            Aggregate::Distinct => (&mut distinct, MAX_DISTINCT),
            _ => (&mut measured, MAX_MEASURED),
        };
        list.push(id);
        let gauges = list.iter().filter(is_gauge).count();
        if is_gauge(&&id)
            && gauges == MAX_LEVELS + 1
            && let Some(place) = place
        {
            let message = format!(
                "route `{}` would change more than {MAX_LEVELS} gauges: narrow some with `apps` or \
                 `routes`",
                route.id
            );
            findings.add(*place, format!("meter.{}.routes", meter.id), message);
        }
        if list.len() == most + 1 {
            // The table that is one too many: the built-in ones are there anyway.
            let mut tables =
                defined[..=id.0 as usize].iter().rev().chain(&defined[id.0 as usize..]);
            let table = tables.find_map(|one| Some((one.place?, &one.meter.id)));
            if let Some((place, table)) = table {
                let message = format!(
                    "route `{}` would be measured by more than {most} such meters besides its \
                     own: narrow some with `apps` or `routes`",
                    route.id
                );
                findings.add(place, format!("meter.{table}.routes"), message);
            }
        }
    }
    let own = defined.get(route.meter_id.0 as usize).map(|own| own.meter.aggregate);
    route.units = if own == Some(Aggregate::Count) { 1 } else { route.cost };
    let volume = [DATA_IN, DATA_OUT].into_iter().filter_map(|id| find(defined, id));
    let all = measured.iter().chain(&distinct).copied().chain(volume).chain([route.meter_id]);
    all.for_each(|id| route.counts_on.insert(id.0));
    let is_gauge = |id: &&MeterId| defined[id.0 as usize].meter.aggregate == Aggregate::Gauge;
    route.levels = measured.iter().filter(is_gauge).copied().collect();
    route.measured = measured.into();
    route.distinct = distinct.into();
}

#[cfg(all(test, not(loom)))]
mod tests;
