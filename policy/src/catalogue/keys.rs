//! Keys: whose they are, and their own limits.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::index::Broken;
use super::limits::{Limits, Owner};
use super::tenants::Tenants;
use crate::decide::MAX_CHAIN;
use crate::diagnostics::Findings;
use crate::documents::KeyDoc;
use crate::keys::{KeyId, SecretHash};
use crate::snapshot::{Entry, Level, Slot};

pub(super) struct Keys {
    pub(super) entries: Vec<Entry>,
    pub(super) index: HashTable<u32>,
}

pub(super) fn build(
    docs: &[KeyDoc<'_>],
    tenants: &Tenants<'_>,
    limits: &mut Limits<'_>,
    broken: &Broken<'_>,
    findings: &mut Findings,
) -> Keys {
    let hasher = FixedState::default();
    let mut entries: Vec<Entry> = Vec::with_capacity(docs.len());
    let mut places = Vec::with_capacity(docs.len());
    let mut index: HashTable<u32> = HashTable::with_capacity(docs.len());
    for doc in docs {
        let key = |field: &str| format!("key.{}.{field}", doc.id.value);
        let tenant = tenants.ids.refer(&doc.tenant, || key("tenant"), broken, findings);
        let Some(id) = KeyId::parse(doc.id.value.as_bytes()) else {
            let message = "a key id is 10 letters and digits (see `orbit key new`)";
            findings.add(doc.id.place, key("id"), message);
            continue;
        };
        let hash = hasher.hash_one(id);
        if let Some(first) = index.find(hash, |other| entries[*other as usize].id == id) {
            let first = places[*first as usize];
            findings.add_with(doc.id.place, key("id"), "the key id is taken already, at", first);
            continue;
        }
        let own = match tenant {
            Some(tenant) if !doc.limits.is_empty() => {
                own_slots(doc, id, tenant, tenants, limits, findings)
            }
            _ => Box::default(),
        };
        let position = entries.len() as u32;
        entries.push(Entry {
            id,
            hash: SecretHash(doc.hash.value),
            disabled: doc.disabled,
            tenant: tenant.unwrap_or_default(),
            own,
        });
        places.push(doc.id.place);
        index.insert_unique(hash, position, |other| hasher.hash_one(entries[*other as usize].id));
    }
    Keys { entries, index }
}

fn own_slots(
    doc: &KeyDoc<'_>,
    id: KeyId,
    tenant: u32,
    tenants: &Tenants<'_>,
    limits: &mut Limits<'_>,
    findings: &mut Findings,
) -> Box<[Slot]> {
    let resolved =
        limits.resolve(&doc.limits, Level::Key.into(), &format!("key.{id}"), None, findings);
    let before: Vec<&Slot> = match limits.previous {
        Some(previous) => previous
            .key_position(id)
            .map_or_else(Vec::new, |index| previous.keys[index as usize].own.iter().collect()),
        None => Vec::new(),
    };
    let owner = Owner { tenant, known_as: id.as_str() };
    let own = limits.slots(&resolved, owner, &before, true);
    // A tenant that could not be grown has a finding of its own.
    let shared = tenants.longest.get(tenant as usize).copied().unwrap_or_default();
    if own.len() + shared > MAX_CHAIN {
        let message = format!("with its tenant's more than {MAX_CHAIN} limits on one chain");
        findings.add(doc.place, format!("key.{id}.limits"), message);
    }
    own.into()
}
