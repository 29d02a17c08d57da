//! The gateway is killed and started again and again while another program works with it.
//!
//! The program finds its way by the environment; its own exit status is its verdict. What it asks
//! of a gateway that is not there it must ask again.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::random::Random;
use crate::stage::Stage;

use super::{AttackError, AttackReport, AuditSays, Fact, LoadSummary, Verdict, drain};

/// Longest time a killed gateway stays away.
const DOWN_MS: u64 = 500;

/// How often, and when.
#[derive(Clone, Copy, Debug)]
pub struct KillPlan {
    /// Kills of the gateway.
    pub kills: u32,
    /// Between two of them, on average.
    pub every: Duration,
    /// Brings the same moments again.
    pub seed: u64,
}

/// Runs `command` with a stage whose gateway is killed meanwhile.
pub async fn run(
    stage: &mut Stage,
    command: &[String],
    plan: &KillPlan,
    quiet: bool,
) -> Result<AttackReport, AttackError> {
    let mut child = spawn(stage, command)?;
    let mut random = Random::new(plan.seed);
    let mut ended = None;
    while stage.gateway.kills() < plan.kills && ended.is_none() {
        let every_ms = plan.every.as_millis() as u64;
        let pause = Duration::from_millis(random.within(every_ms / 2..every_ms * 3 / 2));
        ended = within(&mut child, pause).await;
        if ended.is_none() {
            stage.gateway.kill().await;
            tokio::time::sleep(Duration::from_millis(random.within(0..DOWN_MS))).await;
            stage.gateway.start()?;
        }
    }
    let program = command[0].clone();
    let status = match ended {
        Some(status) => status,
        None => child.wait().await.map_err(|source| AttackError::Command { program, source })?,
    };
    let kills = stage.gateway.kills();
    let backlog = drain(stage, quiet).await?;
    let stopped = stage.stop_gateway().await?;
    let mut verdict = Verdict::default();
    let failed = (!status.success()).then(|| format!("`{}`: {status}", command.join(" ")));
    verdict.add("the command succeeds", 1, failed.into_iter().collect());
    verdict.add_stage(stage, backlog, stopped, AuditSays::Clean).await?;
    let few = format!("it was killed {kills} times, not {}: the command was over", plan.kills);
    let wrong = (kills < plan.kills).then_some(few);
    verdict.add("the gateway was killed", u64::from(kills), wrong.into_iter().collect());
    let facts = [
        ("command", command.join(" ")),
        ("seed", plan.seed.to_string()),
        ("kills of the gateway", kills.to_string()),
    ];
    let facts = facts.map(|(what, is)| Fact::new(what, is)).to_vec();
    Ok(AttackReport::new("kills", facts, LoadSummary::default(), verdict))
}

/// Its end, if it comes within `length`.
async fn within(child: &mut Child, length: Duration) -> Option<ExitStatus> {
    tokio::time::timeout(length, child.wait()).await.ok()?.ok()
}

/// What a program needs to know to work with the stage.
fn spawn(stage: &Stage, command: &[String]) -> Result<Child, AttackError> {
    let [program, rest @ ..] = command else {
        let source = std::io::ErrorKind::InvalidInput.into();
        return Err(AttackError::Command { program: String::new(), source });
    };
    let below = |name: &str| stage.directory().join(name);
    let path = |path: &Path| path.display().to_string();
    let environment = [
        ("ORBIT_CONFIG", path(&stage.config)),
        ("ORBIT_URL", stage.target.to_string()),
        ("ORBIT_ADMIN_URL", stage.admin.to_string()),
        ("ORBIT_ADMIN_TOKEN_FILE", path(&below("admin.token"))),
        ("ORBIT_INGEST_URL", stage.ingest.to_string()),
        ("ORBIT_INGEST_TOKEN_FILE", path(&below("ingest.token"))),
        ("LOADTEST_KEYS_FILE", path(&below("load.env"))),
        ("ORBIT_CLICKHOUSE_URL", stage.table.target.to_string()),
        ("ORBIT_CLICKHOUSE_USER", stage.table.user.clone()),
        ("ORBIT_CLICKHOUSE_DATABASE", stage.table.database.clone()),
        ("ORBIT_CLICKHOUSE_PASSWORD_FILE", path(&below("clickhouse/orbit.password"))),
    ];
    Command::new(program)
        .args(rest)
        .envs(environment)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| AttackError::Command { program: program.clone(), source })
}
