//! Every crossing of a quota is told, under one id, whatever dies: the gateway, the receiver, or
//! what is between them.
//!
//! Teams use up quotas through a real gateway that is killed again and again. Its alerts go to a
//! receiver, another process, that refuses, stalls and closes at random, is killed as well, and
//! checks each signature by an implementation that is not ours. In the end each crossing that
//! follows from the policy and the answers must have been taken at least once, under one id; and
//! nothing else may have been told.

mod plan;
mod receiver;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use serde_json::Value;

use crate::clock::Clock;
use crate::fetch::{self, FetchError, send, text};
use crate::progress::ProgressView;
use crate::random::Random;
use crate::stage::{self, Stage, StageError, StageSettings};
use crate::target::Target;

use super::{AttackError, AttackReport, AuditSays, Fact, LoadSummary, Verdict, drain};
use plan::{Crossing, Team, Teams};
use receiver::{Noted, Receiver, deeds};

/// The receiver's secret, of loopback alone: the example of the specification.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n";
/// Requests under way at once.
const CLIENTS: usize = 8;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time until everything was taken, after the last kill.
const DELIVERY_LIMIT: Duration = Duration::from_mins(5);
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Longest time something that was killed stays away.
const DOWN_MS: u64 = 1_000;
/// Looks of the gateway, for whatever it would tell once more.
const SETTLE: Duration = Duration::from_secs(2);

/// How much is told, and what dies meanwhile.
#[derive(Clone, Debug)]
pub struct AlertsPlan {
    /// Crossings, at least.
    pub crossings: u64,
    /// How long the quotas are being used.
    pub over: Duration,
    /// Kills of the gateway in that time.
    pub gateway_kills: u32,
    /// Kills of the receiver in that time.
    pub receiver_kills: u32,
    /// The receiver's program.
    pub receiver: PathBuf,
    /// Brings the same moments again.
    pub seed: u64,
}

/// What dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Gateway,
    Receiver,
}

/// Builds everything, uses the quotas up, and judges what was told.
pub async fn run(
    settings: &StageSettings,
    plan: &AlertsPlan,
    quiet: bool,
) -> Result<AttackReport, AttackError> {
    let mut teams = Teams::for_crossings(plan.crossings)?;
    let (mut stage, mut receiver) = build(settings, plan, &teams).await?;
    let using = Using::start(&mut teams, plan, &stage);
    kill(&mut stage, &mut receiver, plan).await?;
    let used = using.end(&mut teams).await?;
    // From here on it takes everything, or the last of many bad moments would decide how long this
    // takes.
    receiver.daemon.kill().await;
    receiver.daemon.argue("--trouble=0");
    receiver.daemon.start()?;
    receiver.listens().await?;
    let (must, may) = teams.crossings();
    let mut view = ProgressView::new("alerts", quiet);
    let mut watch = |taken, of| view.counted(taken, of, "crossings taken");
    let mut replayed = await_delivery(&mut stage, &receiver, &must, &mut watch).await?;
    // Once more from what is on the disk: nothing may be told again.
    stage.gateway.kill().await;
    stage.gateway.start()?;
    stage.gateway_serves().await?;
    tokio::time::sleep(SETTLE).await;
    replayed += await_delivery(&mut stage, &receiver, &must, &mut watch).await?;
    drop(view);
    let (noted, torn) = receiver.noted();
    let mut verdict = Verdict::default();
    judge(&mut verdict, &noted, &must, &may);
    let is_trouble = deeds(&noted);
    let missing =
        ["ok", "error", "stall", "close"].iter().filter(|did| !is_trouble.contains_key(**did));
    let missing =
        missing.map(|did| format!("the receiver never did `{did}`: too little was proved"));
    verdict.add("the receiver had every trouble", 4, missing.collect());
    let torn_lines = (torn > 0).then(|| format!("{torn} lines of the receiver's log are torn"));
    verdict.add(
        "the receiver's log is whole",
        noted.len() as u64,
        torn_lines.into_iter().collect(),
    );
    verdict.add("requests are admitted or refused", used.asked, used.odd);
    let deeds = deeds(&noted).into_iter().map(|(did, count)| format!("{did}: {count}"));
    let facts = vec![
        Fact::new("seed", plan.seed.to_string()),
        Fact::new("crossings", must.len().to_string()),
        Fact::new("requests", used.asked.to_string()),
        Fact::new(
            "answers that were lost",
            teams.all.iter().map(|team| team.lost).sum::<u64>().to_string(),
        ),
        Fact::new("kills of the gateway", stage.gateway.kills().to_string()),
        Fact::new("kills of the receiver", receiver.daemon.kills().to_string()),
        Fact::new("deliveries", deeds.collect::<Vec<_>>().join(", ")),
        Fact::new("dead ones replayed", replayed.to_string()),
    ];
    let alone = receiver.daemon.ended_alone().to_vec();
    verdict.add("the receiver ends only when told to", receiver.daemon.starts().into(), alone);
    let backlog = drain(&mut stage, quiet).await?;
    let stopped = stage.stop_gateway().await?;
    verdict.add_stage(&mut stage, backlog, stopped, AuditSays::Clean).await?;
    Ok(AttackReport::new("alerts", facts, LoadSummary::default(), verdict))
}

/// The receiver first: its port is taken before others are looked for.
async fn build(
    settings: &StageSettings,
    plan: &AlertsPlan,
    teams: &Teams,
) -> Result<(Stage, Receiver), AttackError> {
    let directory = &settings.directory;
    let secret = directory.join("webhook.secret");
    let unwritten = |source| StageError::File { what: "write", path: secret.clone(), source };
    std::fs::write(&secret, SECRET).map_err(unwritten)?;
    let port = stage::free_port()?;
    let launcher = &settings.launcher;
    let receiver = Receiver::start(&plan.receiver, launcher, directory, (port, plan.seed)).await?;
    let settings = StageSettings {
        policy: teams.document(),
        settings: format!(
            "[alerts]\nretry_base_ms = 10\ntimeout_ms = 500\n[[alerts.webhook]]\nid = \"receiver\"\n\
             url = \"http://127.0.0.1:{port}/hook\"\nsecret_file = \"webhook.secret\"\n\
             allow_private = true\ntypes = [\"quota.threshold_crossed\", \"quota.exhausted\"]\n"
        ),
        ..settings.clone()
    };
    Ok((Stage::build(&settings).await?, receiver))
}

/// Kills what is to be killed, at its moments, and starts it again.
async fn kill(
    stage: &mut Stage,
    receiver: &mut Receiver,
    plan: &AlertsPlan,
) -> Result<(), AttackError> {
    let mut random = Random::new(plan.seed);
    let over_ms = plan.over.as_millis() as u64;
    let victims = std::iter::repeat_n(Victim::Gateway, plan.gateway_kills as usize)
        .chain(std::iter::repeat_n(Victim::Receiver, plan.receiver_kills as usize));
    let mut moments: Vec<(u64, Victim)> =
        victims.map(|victim| (random.within(0..over_ms), victim)).collect();
    moments.sort_by_key(|(at_ms, _)| *at_ms);
    let clock = Clock::start();
    for (at_ms, victim) in moments {
        let wait_ms = at_ms.saturating_sub(clock.now_ns() / 1_000_000);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        let daemon = match victim {
            Victim::Gateway => &mut stage.gateway,
            Victim::Receiver => &mut receiver.daemon,
        };
        daemon.kill().await;
        tokio::time::sleep(Duration::from_millis(random.within(0..DOWN_MS))).await;
        match victim {
            Victim::Gateway => {
                stage.gateway.start()?;
                stage.gateway_serves().await?;
            }
            Victim::Receiver => {
                receiver.daemon.start()?;
                receiver.listens().await?;
            }
        }
    }
    Ok(())
}

/// Waits until every crossing was taken and nothing is pending, and replays what is dead. Returns
/// how much that was.
async fn await_delivery(
    stage: &mut Stage,
    receiver: &Receiver,
    must: &BTreeSet<Crossing>,
    watch: &mut dyn FnMut(u64, u64),
) -> Result<u64, AttackError> {
    let (clock, admin) = (Clock::start(), stage.admin_api()?);
    let mut replayed = 0;
    while Duration::from_nanos(clock.now_ns()) < DELIVERY_LIMIT {
        let (noted, _) = receiver.noted();
        let taken: BTreeSet<Crossing> =
            noted.iter().filter(|one| one.did == "ok").filter_map(crossing).collect();
        watch(taken.intersection(must).count() as u64, must.len() as u64);
        let standing = admin.alerts().await.map_err(StageError::Admin)?;
        if standing["dead"].as_u64() != Some(0) {
            let answer = admin.replay_alerts().await.map_err(StageError::Admin)?;
            replayed += answer["replayed"].as_u64().unwrap_or_default();
        }
        if must.is_subset(&taken) && standing["pending"].as_u64() == Some(0) {
            break;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(replayed)
}

/// Which crossing a delivery is of.
fn crossing(noted: &Noted) -> Option<Crossing> {
    let data = &noted.body.as_ref()?["data"];
    let text = |name: &str| data[name].as_str().map(str::to_owned);
    Some((text("path")?, text("quota")?, data["threshold_percent"].as_u64()))
}

fn judge(
    verdict: &mut Verdict,
    noted: &[Noted],
    must: &BTreeSet<Crossing>,
    may: &BTreeSet<Crossing>,
) {
    let told = |(path, quota, percent): &Crossing| match percent {
        Some(percent) => format!("{quota} of {path} at {percent} %"),
        None => format!("{quota} of {path} being used up"),
    };
    let wrong = noted.iter().filter_map(|one| {
        let wrong = one.wrong.as_ref()?;
        Some(format!("a signature of {}: {wrong}", one.id.as_deref().unwrap_or("nothing")))
    });
    verdict.add("signatures are right", noted.len() as u64, wrong.collect());
    let mut ids: BTreeMap<Crossing, BTreeSet<&str>> = BTreeMap::new();
    let mut crossings: BTreeMap<&str, BTreeSet<Crossing>> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for one in noted {
        let (Some(id), Some(crossing)) = (one.id.as_deref(), crossing(one)) else { continue };
        ids.entry(crossing.clone()).or_default().insert(id);
        crossings.entry(id).or_default().insert(crossing.clone());
        if one.did == "ok" && one.wrong.is_none() {
            taken.insert(crossing);
        }
    }
    let missing = must.difference(&taken).map(|one| format!("nobody was told of {}", told(one)));
    verdict.add("every crossing was taken", must.len() as u64, missing.collect());
    let twice = ids.iter().filter(|(_, ids)| ids.len() > 1);
    let twice = twice.map(|(one, ids)| format!("{} was told under {ids:?}", told(one)));
    verdict.add("each under one id", ids.len() as u64, twice.collect());
    let shared = crossings.iter().filter(|(_, of)| of.len() > 1);
    let shared = shared.map(|(id, of)| format!("{id} is the id of {} crossings", of.len()));
    verdict.add("and each id of one", crossings.len() as u64, shared.collect());
    let untrue = ids.keys().filter(|one| !may.contains(*one));
    let untrue = untrue.map(|one| format!("{} did not happen and was told", told(one)));
    verdict.add("nothing else was told", ids.len() as u64, untrue.collect());
}

/// Teams that use their quotas up.
struct Using {
    clients: Vec<tokio::task::JoinHandle<Used>>,
}

/// What came of it.
#[derive(Default)]
struct Used {
    teams: Vec<(usize, Team)>,
    asked: u64,
    /// Answers that nobody expected.
    odd: Vec<String>,
}

impl Using {
    fn start(teams: &mut Teams, plan: &AlertsPlan, stage: &Stage) -> Using {
        let total: u64 = teams.all.iter().map(|team| team.wants.unwrap_or(40)).sum();
        let pause = plan.over.mul_f64(CLIENTS as f64 / total as f64);
        let mut shares: Vec<Used> = (0..CLIENTS).map(|_| Used::default()).collect();
        for (number, team) in std::mem::take(&mut teams.all).into_iter().enumerate() {
            shares[number % CLIENTS].teams.push((number, team));
        }
        let start = |(number, share): (usize, Used)| {
            let random = Random::new(plan.seed.wrapping_add(number as u64 + 1));
            tokio::spawn(share.go(stage.target.clone(), random, pause))
        };
        Using { clients: shares.into_iter().enumerate().map(start).collect() }
    }

    /// Waits until everybody has what he wants.
    async fn end(self, teams: &mut Teams) -> Result<Used, AttackError> {
        let mut all = Used::default();
        for client in self.clients {
            let used = client.await.map_err(|_| AttackError::Never {
                what: "the end of a client",
                limit: REQUEST_TIMEOUT,
            })?;
            all.teams.extend(used.teams);
            all.asked += used.asked;
            all.odd.extend(used.odd);
        }
        all.teams.sort_by_key(|(number, _)| *number);
        teams.all = std::mem::take(&mut all.teams).into_iter().map(|(_, team)| team).collect();
        Ok(all)
    }
}

impl Used {
    async fn go(mut self, target: Target, mut random: Random, pause: Duration) -> Used {
        while self.odd.is_empty() {
            let open = self.teams.iter().enumerate().filter(|(_, (_, team))| !team.is_done());
            let open: Vec<usize> = open.map(|(place, _)| place).collect();
            if open.is_empty() {
                break;
            }
            let place = open[random.within(0..open.len() as u64) as usize];
            let mut request = fetch::get(&target, "/load");
            let team = &mut self.teams[place].1;
            let key = HeaderValue::from_str(team.key.reveal()).expect("a key is visible ASCII");
            request.headers_mut().insert("x-api-key", key);
            self.asked += 1;
            match send(&target, request, REQUEST_TIMEOUT).await {
                Ok(answer) if answer.status() == 200 => team.admitted += 1,
                Ok(answer) => {
                    let status = answer.status();
                    let body = text(&target, answer, REQUEST_TIMEOUT).await.unwrap_or_default();
                    let quota = serde_json::from_str::<Value>(&body).unwrap_or_default();
                    let by_quota =
                        quota["quota"].as_str().is_some_and(|name| name.ends_with("/hard"));
                    if status == 429 && by_quota && team.wants.is_none() {
                        team.is_refused = true;
                    } else if status != 429 || by_quota {
                        self.odd.push(format!("an answer {status}: {body}"));
                    }
                }
                // It was not there; it did not count.
                Err(FetchError::Connect { .. }) => tokio::time::sleep(POLL_INTERVAL).await,
                Err(_) => team.lost += 1,
            }
            tokio::time::sleep(pause).await;
        }
        self
    }
}
