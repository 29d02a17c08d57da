//! Orbit's own proof of what it has counted, run as an operator would run it.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::stage::{Stage, StageError};

const LIMIT: Duration = Duration::from_mins(10);

/// Whether it exits with 0, which says that all is well, and what else it says.
pub(crate) async fn ask(stage: &Stage) -> Result<(bool, String), StageError> {
    const NAME: &str = "orbit audit";
    let unrun = |source| StageError::Spawn { name: NAME, source };
    let audit = Command::new(stage.orbit())
        .args(["audit", "--format", "json", "--config"])
        .arg(&stage.config)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let slow = |_| StageError::Slow { name: NAME, what: "end", limit: LIMIT };
    let output = tokio::time::timeout(LIMIT, audit).await.map_err(slow)?.map_err(unrun)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    Ok((output.status.success(), format!("{}: {}", output.status, said.trim())))
}
