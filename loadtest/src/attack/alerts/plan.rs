//! Who asks for how much of which quotas, and which crossings that must lead to.
//!
//! Holdings of four teams each. A team has three quotas, of which the last refuses; three teams of
//! four ask until they are refused, the fourth stops in between. The holding's own quota is shared
//! by all of them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use orbit_policy::ApiKey;
use orbit_policy::keys::NewKeyError;

const TEAMS: usize = 4;
/// Requests of a team that stops in between.
const PART: u64 = 26;
/// Crossings of a holding and its teams.
const OF_HOLDING: u64 = 38;

/// A quota as it is written, and what is told of it.
struct Quota {
    name: &'static str,
    limit: u64,
    thresholds: &'static [u64],
    /// Whether it refuses beyond its limit, so that its count ends there.
    blocks: bool,
}

const OF_TEAM: [Quota; 3] = [
    Quota { name: "small", limit: 20, thresholds: &[50, 80], blocks: false },
    Quota { name: "medium", limit: 30, thresholds: &[50, 90], blocks: false },
    Quota { name: "hard", limit: 40, thresholds: &[25, 50, 75], blocks: true },
];
/// Its teams use 146 of it.
const SHARED: Quota =
    Quota { name: "shared", limit: 160, thresholds: &[50, 75, 95], blocks: false };

/// A crossing, by the path of the quota's tenant, the quota's name, and the percentage; `None`: it
/// is used up.
pub(super) type Crossing = (String, String, Option<u64>);

/// A team, and what came of its requests.
pub(super) struct Team {
    holding: usize,
    path: String,
    pub(super) key: ApiKey,
    /// How many it wants; `None`: until it is refused.
    pub(super) wants: Option<u64>,
    pub(super) admitted: u64,
    /// Those whose answer was lost: they may be counted.
    pub(super) lost: u64,
    pub(super) is_refused: bool,
}

impl Team {
    /// Whether it has what it wants.
    pub(super) fn is_done(&self) -> bool {
        self.is_refused || self.wants.is_some_and(|wants| self.admitted >= wants)
    }
}

/// Everybody.
pub(super) struct Teams {
    pub(super) all: Vec<Team>,
    holdings: usize,
}

impl Teams {
    /// As many as lead to at least so many crossings.
    pub(super) fn for_crossings(crossings: u64) -> Result<Teams, NewKeyError> {
        let holdings = crossings.div_ceil(OF_HOLDING) as usize;
        let team = |number: usize| {
            let holding = number / TEAMS;
            let wants = (number % TEAMS == TEAMS - 1).then_some(PART);
            let path = format!("alerts-{holding}/alerts-team-{number}");
            let key = ApiKey::generate("load")?;
            Ok(Team { holding, path, key, wants, admitted: 0, lost: 0, is_refused: false })
        };
        let all = (0..holdings * TEAMS).map(team).collect::<Result<_, _>>()?;
        Ok(Teams { all, holdings })
    }

    /// The policy document; the plan and the route are those of the load tests.
    pub(super) fn document(&self) -> String {
        let mut text = String::new();
        let write = |text: &mut String, id: &str, above: &str, quotas: &[Quota]| {
            let quotas: Vec<String> = quotas.iter().map(Quota::document).collect();
            let quotas = quotas.join(", ");
            writeln!(text, "[[tenant]]\nid = \"{id}\"\n{above}\nquotas = [{quotas}]")
                .expect("a string can always be written to");
        };
        for holding in 0..self.holdings {
            write(&mut text, &format!("alerts-{holding}"), "plan = \"load\"", &[SHARED]);
        }
        for Team { path, key, .. } in &self.all {
            let (above, id) = path.split_once('/').expect("a path of two");
            write(&mut text, id, &format!("parent = \"{above}\""), &OF_TEAM);
            let ApiKey { id: key_id, hash, .. } = key;
            text.push_str(&format!(
                "[[key]]\nid = \"{key_id}\"\ntenant = \"{id}\"\nhash = \"{hash}\"\n"
            ));
        }
        text
    }

    /// The crossings that must have been told, and those that may have been: a request whose answer
    /// was lost may be counted, or not.
    pub(super) fn crossings(&self) -> (BTreeSet<Crossing>, BTreeSet<Crossing>) {
        let (mut must, mut may) = (BTreeSet::new(), BTreeSet::new());
        let mut shared = vec![(0, 0); self.holdings];
        for team in &self.all {
            let (least, most) = (team.admitted, team.admitted + team.lost);
            shared[team.holding].0 += least;
            shared[team.holding].1 += most;
            for quota in &OF_TEAM {
                let ends = quota.blocks && team.is_refused;
                let least = if ends { quota.limit } else { least };
                must.extend(quota.crossed(&team.path, least));
                may.extend(quota.crossed(&team.path, most.max(least)));
            }
        }
        for (holding, (least, most)) in shared.into_iter().enumerate() {
            must.extend(SHARED.crossed(&format!("alerts-{holding}"), least));
            may.extend(SHARED.crossed(&format!("alerts-{holding}"), most));
        }
        (must, may)
    }
}

impl Quota {
    fn document(&self) -> String {
        let Quota { name, limit, thresholds, blocks } = self;
        let at_limit = if *blocks { "block" } else { "allow_and_bill" };
        format!(
            "{{ name = \"{name}\", meter = \"api_calls\", limit = {limit}, per = \"year\", \
             thresholds = {thresholds:?}, at_limit = \"{at_limit}\" }}"
        )
    }

    /// What is crossed when so much was used.
    fn crossed(&self, path: &str, used: u64) -> impl Iterator<Item = Crossing> {
        let percents = self.thresholds.iter().copied().map(Some).chain([None]);
        let limit = self.limit;
        let crossed = percents.filter(move |percent| used * 100 >= limit * percent.unwrap_or(100));
        crossed.map(move |percent| (path.to_owned(), self.name.to_owned(), percent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holding_leads_to_as_many_crossings_as_it_is_said_to() {
        let mut teams = Teams::for_crossings(OF_HOLDING + 1).expect("keys");
        assert_eq!(teams.all.len(), 2 * TEAMS);
        assert_eq!(teams.crossings().1.len(), 0);
        for team in &mut teams.all {
            team.admitted = team.wants.unwrap_or(40);
            team.is_refused = team.wants.is_none();
        }
        let (must, may) = teams.crossings();
        assert_eq!((must.len() as u64, &must), (2 * OF_HOLDING, &may));
        // An answer that was lost just below a threshold leaves it open.
        teams.all[TEAMS - 1].lost = 1;
        let (same, more) = teams.crossings();
        assert_eq!(same, must);
        let team = "alerts-0/alerts-team-3".to_owned();
        let open: Vec<_> = more.difference(&must).collect();
        assert_eq!(open, [&(team, "medium".to_owned(), Some(90))]);
        let source = orbit_policy::Source {
            file: "alerts.toml".into(),
            text: "[[plan]]\nid = \"load\"\n".to_owned() + &teams.document(),
        };
        assert!(orbit_policy::check(&[source], 0).is_ok());
    }
}
