//! The operators' documents as they stand: typed, located, not yet checked against each other.
//!
//! Any `.toml` file may hold any of the kinds, each an array of tables: `[[plan]]`, `[[addon]]`,
//! `[[app]]`, `[[route]]`, `[[upstream]]`, `[[tenant]]`, `[[change]]`, `[[key]]`, `[[meter]]`,
//! `[[grant]]`. A mistake in one
//! table never hides a mistake in another.

mod contract;
mod fields;
mod kinds;
mod limit;
mod meter;
mod quota;
mod share;
mod tree;
mod upstream;

use crate::diagnostics::{Findings, Place};
pub(crate) use contract::{ChangeAt, ChangeDoc, Overrides, OwnFigures};
pub(crate) use fields::{Amount, Count, Located, Text};
use fields::{Fields, Scope};
pub use kinds::is_reserved_path;
pub(crate) use kinds::{AddonDoc, AppDoc, KeyDoc, PlanDoc, RouteDoc, TenantDoc};
pub(crate) use limit::{Each, LimitDoc, LimitKind, Written, period, refills};
pub(crate) use meter::MeterDoc;
pub(crate) use quota::{GrantDoc, QuotaDoc};
pub(crate) use share::Share;
use tree::Value;
pub(crate) use upstream::{HealthDoc, PeerDoc, UpstreamDoc};

/// One document: its name for messages, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The path as an operator would write it.
    pub file: String,
    /// TOML, UTF-8, under 4 GiB.
    pub text: String,
}

/// All tables of all documents, in the order of the text.
#[derive(Default)]
pub(crate) struct Documents<'i> {
    pub(crate) plans: Vec<PlanDoc<'i>>,
    pub(crate) addons: Vec<AddonDoc<'i>>,
    pub(crate) apps: Vec<AppDoc<'i>>,
    pub(crate) routes: Vec<RouteDoc<'i>>,
    pub(crate) upstreams: Vec<UpstreamDoc<'i>>,
    pub(crate) tenants: Vec<TenantDoc<'i>>,
    pub(crate) changes: Vec<ChangeDoc<'i>>,
    pub(crate) keys: Vec<KeyDoc<'i>>,
    pub(crate) meters: Vec<MeterDoc<'i>>,
    pub(crate) grants: Vec<GrantDoc<'i>>,
    /// Tables with a finding of their own, by kind and id: references to them are not at fault.
    pub(crate) broken: Vec<(&'static str, Text<'i>)>,
}

const KINDS: &str = "plan, addon, app, route, upstream, tenant, change, key, meter, grant";

/// Reads every source; mistakes go to `findings`, what could be read is returned.
pub(crate) fn read<'i>(sources: &'i [Source], findings: &mut Findings) -> Documents<'i> {
    let mut documents = Documents::default();
    for (file, source) in sources.iter().enumerate() {
        let file = file as u32;
        if source.text.len() > u32::MAX as usize {
            findings.add(Place { file, byte: 0 }, "", "the document is larger than 4 GiB");
            continue;
        }
        let (root, errors) = tree::parse(&source.text);
        for error in errors {
            findings.add(Place { file, byte: error.at }, "", error.message);
        }
        for (key, node) in root.entries {
            let place = Place { file, byte: key.at };
            match node.value {
                Value::Array(items) => documents.read_kind(&key.text, place, items, findings),
                other => {
                    let kind = other.kind();
                    let message = format!("{kind} where `[[{}]]` tables belong", key.text);
                    findings.add(place, key.text, message);
                }
            }
        }
    }
    documents
}

impl<'i> Documents<'i> {
    fn read_kind(
        &mut self,
        kind: &str,
        place: Place,
        items: Vec<tree::Node<'i>>,
        findings: &mut Findings,
    ) {
        let (name, known) = match kind {
            "plan" => ("plan", true),
            "addon" => ("addon", true),
            "app" => ("app", true),
            "route" => ("route", true),
            "upstream" => ("upstream", true),
            "tenant" => ("tenant", true),
            "change" => ("change", true),
            "key" => ("key", true),
            "meter" => ("meter", true),
            "grant" => ("grant", true),
            _ => ("", false),
        };
        if !known {
            findings.add(place, kind, format!("unknown kind of table; known are {KINDS}"));
            return;
        }
        for (index, node) in items.into_iter().enumerate() {
            let at = Place { file: place.file, byte: node.at };
            let Value::Table(table) = node.value else {
                let message = format!("{} where a table belongs", node.value.kind());
                findings.add(at, format!("{name}[{index}]"), message);
                continue;
            };
            let id = table.entries.iter().find(|(key, _)| key.text == "id");
            let id = match id.map(|(_, node)| &node.value) {
                Some(Value::Text(text)) => Some(text.clone()),
                _ => None,
            };
            let scope = Scope::Top { kind: name, index, id: id.as_deref() };
            let fields = Fields::new(table, at, scope, findings);
            let whole = match name {
                "plan" => keep(&mut self.plans, PlanDoc::read(fields)),
                "addon" => keep(&mut self.addons, AddonDoc::read(fields)),
                "app" => keep(&mut self.apps, AppDoc::read(fields)),
                "route" => keep(&mut self.routes, RouteDoc::read(fields)),
                "upstream" => keep(&mut self.upstreams, UpstreamDoc::read(fields)),
                "tenant" => keep(&mut self.tenants, TenantDoc::read(fields)),
                "change" => keep(&mut self.changes, ChangeDoc::read(fields)),
                "meter" => keep(&mut self.meters, MeterDoc::read(fields)),
                "grant" => keep(&mut self.grants, GrantDoc::read(fields)),
                _ => keep(&mut self.keys, KeyDoc::read(fields)),
            };
            if !whole {
                self.broken.extend(id.map(|id| (name, id)));
            }
        }
    }
}

fn keep<T>(list: &mut Vec<T>, item: Option<T>) -> bool {
    let whole = item.is_some();
    list.extend(item);
    whole
}

#[cfg(test)]
mod tests;
