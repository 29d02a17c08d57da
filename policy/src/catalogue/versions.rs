//! Versions of plans side by side: which one a tenant is on, and which one is offered.
//!
//! A tenant stays on the version that was offered when it came onto the plan, unless it is pinned
//! to one (`business@1`). So a plan is changed by a new version, and nobody's terms change.

use jiff::tz::TimeZone;

use super::index::{Broken, Index};
use crate::dates::{Utc, When};
use crate::diagnostics::Findings;
use crate::documents::{Located, PlanDoc, Text};
use crate::snapshot::Change;

pub(crate) struct Versions<'d> {
    ids: Index<'d>,
    /// Of each id, in the order in which they are offered.
    of_id: Vec<Vec<Version>>,
}

struct Version {
    /// Index into the plans.
    plan: u32,
    number: u32,
    from: Option<When>,
}

impl Version {
    fn begins_us(&self, zone: &TimeZone) -> i64 {
        self.from.map_or(i64::MIN, |from| from.at_us(zone))
    }
}

impl<'d> Versions<'d> {
    pub(super) fn build<'i: 'd>(docs: &'d [PlanDoc<'i>], findings: &mut Findings) -> Self {
        let mut sorted: Vec<_> = (0..).zip(docs).collect();
        sorted.sort_by_key(|(index, doc)| (&*doc.id.value, doc.version.value, *index));
        let groups: Vec<&[(u32, &PlanDoc<'_>)]> =
            sorted.chunk_by(|a, b| a.1.id.value == b.1.id.value).collect();
        let first = groups.iter().map(|group| &group[0].1.id);
        let ids = Index::build("plan", first.collect::<Vec<_>>().into_iter(), findings);
        let group = |group: &&[(u32, &PlanDoc<'_>)]| {
            let mut versions: Vec<_> =
                group.iter().map(|(index, doc)| version(*index, doc)).collect();
            versions.sort_by_key(|version| version.begins_us(&TimeZone::UTC));
            versions
        };
        for group in &groups {
            check(group, findings);
        }
        let of_id = groups.iter().map(group).collect();
        Versions { ids, of_id }
    }

    /// The plan that a reference means, to a tenant that came onto it at `came_us`.
    pub(super) fn choose(
        &self,
        plan: &Located<Text<'_>>,
        came_us: Option<i64>,
        zone: &TimeZone,
        key: impl Fn() -> String,
        broken: &Broken<'_>,
        findings: &mut Findings,
    ) -> Option<u32> {
        let (id, pinned) = match plan.value.split_once('@') {
            Some((id, number)) => (id, Some(number)),
            None => (&*plan.value, None),
        };
        let name = Located { value: Text::Borrowed(id), place: plan.place };
        let group = self.ids.refer(&name, &key, broken, findings)?;
        let versions = &self.of_id[group as usize];
        let found = match (pinned, came_us) {
            (Some(number), _) => pinned_to(versions, id, number),
            (None, Some(came_us)) => offered_at(versions, id, came_us, zone),
            (None, None) => match &versions[..] {
                [only] => Ok(only),
                several => Err(undated(several, id)),
            },
        };
        match found {
            Ok(version) => Some(version.plan),
            Err(message) => {
                findings.add(plan.place, key(), message);
                None
            }
        }
    }

    /// The places of the versions of each plan among the plans.
    pub(super) fn groups(&self) -> Vec<Box<[u32]>> {
        let group = |versions: &Vec<Version>| versions.iter().map(|version| version.plan).collect();
        self.of_id.iter().map(group).collect()
    }

    /// The instants at which versions begin to be offered.
    pub(super) fn beginnings<'s>(
        &'s self,
        docs: &'s [PlanDoc<'_>],
    ) -> impl Iterator<Item = Change> + 's {
        self.of_id.iter().flatten().filter(|version| version.from.is_some()).map(|version| {
            let id = &docs[version.plan as usize].id.value;
            Change {
                at_us: version.begins_us(&TimeZone::UTC),
                tenant: None,
                what: format!("plan {id}@{} is offered", version.number).into(),
            }
        })
    }
}

fn version(plan: u32, doc: &PlanDoc<'_>) -> Version {
    let from = doc.from.as_ref().map(|from| from.value);
    Version { plan, number: doc.version.value, from }
}

/// A version that is there twice, or two that are offered from the same instant on, are findings.
fn check(group: &[(u32, &PlanDoc<'_>)], findings: &mut Findings) {
    for (index, (_, doc)) in group.iter().enumerate() {
        let id = &doc.id.value;
        let earlier = group[..index].iter().map(|(_, other)| *other);
        let begins_us = |doc: &PlanDoc<'_>| version(0, doc).begins_us(&TimeZone::UTC);
        for other in earlier {
            if other.version.value == doc.version.value {
                let key = format!("plan.{id}.id");
                let message = format!("version {} is there already, at", doc.version.value);
                findings.add_with(doc.id.place, key, message, other.id.place);
            } else if begins_us(other) == begins_us(doc) {
                let place = doc.from.as_ref().map_or(doc.id.place, |from| from.place);
                let message = "another version is offered from the same day on: write `from`, the \
                               day from which tenants get this one; the other is at";
                findings.add_with(place, format!("plan.{id}.from"), message, other.id.place);
            }
        }
    }
}

fn pinned_to<'v>(versions: &'v [Version], id: &str, number: &str) -> Result<&'v Version, String> {
    let pinned = number.parse().ok();
    versions.iter().find(|version| Some(version.number) == pinned).ok_or_else(|| {
        format!("plan `{id}` has no version `{number}`, it has {}", numbers(versions))
    })
}

fn offered_at<'v>(
    versions: &'v [Version],
    id: &str,
    came_us: i64,
    zone: &TimeZone,
) -> Result<&'v Version, String> {
    let begun = versions.iter().filter(|version| version.begins_us(zone) <= came_us);
    begun.max_by_key(|version| version.begins_us(zone)).ok_or_else(|| {
        let first = versions.first().and_then(|version| version.from);
        let first = first.map(|from| from.to_string()).unwrap_or_default();
        format!(
            "plan `{id}` is offered from {first} on, and the tenant came onto it at {}: correct a \
             date, or pin a version, such as `{id}@{}`",
            Utc(came_us),
            versions.first().map_or(1, |version| version.number),
        )
    })
}

fn undated(versions: &[Version], id: &str) -> String {
    let newest = versions.last().map_or(1, |version| version.number);
    format!(
        "plan `{id}` has the versions {}: write `since`, the day on which the tenant came onto it, \
         or pin one, such as `{id}@{newest}`",
        numbers(versions)
    )
}

fn numbers(versions: &[Version]) -> String {
    let numbers: Vec<_> = versions.iter().map(|version| version.number.to_string()).collect();
    numbers.join(", ")
}
