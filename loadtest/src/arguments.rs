//! The command line. Secrets come from files, never from here.

mod attack;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use orbit_loadtest::scenario::Rate;
use orbit_loadtest::target::Target;

pub(crate) use attack::{
    AlertsArguments, ChaosArguments, ChildArguments, DiskArguments, KillsArguments, LoadArguments,
    OnFullChoice, OutageArguments, PowerArguments, QuotaArguments, StageArguments,
};

/// Load, fake upstreams, and the judges of a run.
///
/// Only loopback addresses are driven. Exit status: 0 as expected, 1 something was wrong, 2 the
/// command could not be carried out.
#[derive(Parser)]
#[command(name = "loadtest", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value per process")]
pub(crate) enum Command {
    /// Serve fake upstreams: paths choose the behaviour.
    ///
    /// Prints the bound address as one line. Paths, after any prefix: /fixed/N, /slow/MS,
    /// /stream/CHUNKS/BYTES/MS, /chunked/CHUNKS/BYTES, /204, /304, /head, /fail/STATUS, /reset,
    /// /echo, /headers, /events/EVENTS/MS, /websocket; anything else answers 72 bytes of JSON.
    Upstream(UpstreamArguments),
    /// Make fresh API keys for the scenarios of this repository.
    ///
    /// Writes DIR/policy/load-keys.toml, to be among the gateway's policy paths beside
    /// loadtest/policy, and DIR/load.env, to be given as --keys-file.
    Keys(KeysArguments),
    /// Run a scenario and report; with --ledger, compare the answers with ClickHouse.
    Run(RunArguments),
    /// Run a scenario against two servers in turn and compare CPU time per answer.
    Compare(CompareArguments),
    /// Run a scenario while a policy file is rewritten again and again.
    ///
    /// Reports p99 during reloads and without, and how many reloads took effect. The file's text
    /// is put back at the end.
    Reload(ReloadArguments),
    /// Attack a whole Orbit under load and ask whether every answer was counted once.
    ///
    /// Builds everything itself in a temporary directory on free loopback ports: upstream,
    /// ClickHouse, a proxy between it and the gateway that resets, stalls, cuts and swallows, and
    /// the gateway. Kills, stops, faults and a full disk come at random moments from a seed. Ends
    /// with a verdict on every answer, every row, the sequences, the projection and `orbit audit`.
    /// As root, the journal is on a small disk of its own that is filled as well.
    #[command(after_help = attack::CHAOS_EXAMPLES)]
    Chaos(ChaosArguments),
    /// Take ClickHouse away for long, under load: no client may notice, and it must catch up fast.
    #[command(after_help = attack::OUTAGE_EXAMPLES)]
    Outage(OutageArguments),
    /// Use up a monthly quota and kill the gateway on the way: it must end exact.
    #[command(after_help = attack::QUOTA_EXAMPLES)]
    Quota(QuotaArguments),
    /// Use quotas up while the gateway and the receiver of its alerts are killed: each crossing must
    /// arrive under one id, with a signature that is right by an implementation not ours.
    #[command(after_help = attack::ALERTS_EXAMPLES)]
    Alerts(AlertsArguments),
    /// Fill the journal's disk to the last byte, under load. Needs root.
    #[command(after_help = attack::DISK_EXAMPLES)]
    Disk(DiskArguments),
    /// Let the machine lose power, under load, as far as the journal can tell. Needs root.
    #[command(after_help = attack::POWER_EXAMPLES)]
    Power(PowerArguments),
    /// Kill the gateway again and again while another program works with it.
    ///
    /// The program finds it by ORBIT_URL, ORBIT_ADMIN_URL, ORBIT_ADMIN_TOKEN_FILE,
    /// ORBIT_INGEST_URL, ORBIT_INGEST_TOKEN_FILE, LOADTEST_KEYS_FILE, and ORBIT_CLICKHOUSE_URL,
    /// _USER, _DATABASE and _PASSWORD_FILE.
    #[command(after_help = attack::KILLS_EXAMPLES)]
    Kills(KillsArguments),
    /// Run a program that is killed when its parent thread ends.
    #[command(hide = true)]
    Child(ChildArguments),
    /// Send events to the ingest API, many of them again and again, and prove that each counts once.
    ///
    /// Retries whatever is not acknowledged, so the gateway may be killed and started again
    /// meanwhile, on the same addresses. Then reads every row of the run from ClickHouse.
    #[command(after_help = "\
Example:
  loadtest ingest --url http://127.0.0.1:8081 --token-file data/ingest.token --tenant acme-web \\
    --events 1000000 --batch 500 --duplicates 10% --clients 4 --seed 7 \\
    --clickhouse-url http://127.0.0.1:8123 --clickhouse-user finance \\
    --clickhouse-password-file data/clickhouse/finance.password")]
    Ingest(IngestArguments),
}

#[derive(Args)]
pub(crate) struct UpstreamArguments {
    /// Port on 127.0.0.1; 0: the system chooses.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// End when standard input ends, so as not to outlive the process that started it.
    #[arg(long)]
    pub(crate) until_stdin_closes: bool,
}

#[derive(Args)]
pub(crate) struct KeysArguments {
    /// Where to write; made when it is absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct ScenarioArguments {
    /// The scenario, a TOML file.
    pub(crate) scenario: PathBuf,
    /// File of NAME=value lines that holds the API keys the scenario names.
    #[arg(long, value_name = "FILE", env = "LOADTEST_KEYS_FILE")]
    pub(crate) keys_file: Option<PathBuf>,
    /// Requests per second, or "max", instead of the scenario's.
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<Rate>,
    /// Connections instead of the scenario's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: Option<u32>,
    /// End after so many requests instead of as the scenario says.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "duration_s")]
    pub(crate) requests: Option<u64>,
    /// End after so many seconds instead of as the scenario says.
    #[arg(long, value_parser = seconds)]
    pub(crate) duration_s: Option<f64>,
    /// Write the report as JSON as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Show no progress.
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Args)]
pub(crate) struct LedgerArguments {
    /// Compare every whole answer with the rows of usage_events.
    ///
    /// Nothing else may use the gateway meanwhile.
    #[arg(long, requires = "clickhouse_url")]
    pub(crate) ledger: bool,
    #[command(flatten)]
    pub(crate) table: TableArguments,
}

#[derive(Args)]
pub(crate) struct TableArguments {
    /// ClickHouse's HTTP interface, on loopback.
    #[arg(long, value_name = "URL", env = "ORBIT_CLICKHOUSE_URL")]
    pub(crate) clickhouse_url: Option<Target>,
    /// Its user.
    #[arg(long, value_name = "NAME", env = "ORBIT_CLICKHOUSE_USER", default_value = "default")]
    pub(crate) clickhouse_user: String,
    /// File whose first line is the user's password; else ORBIT_CLICKHOUSE_PASSWORD is used.
    #[arg(long, value_name = "FILE", env = "ORBIT_CLICKHOUSE_PASSWORD_FILE")]
    pub(crate) clickhouse_password_file: Option<PathBuf>,
    /// The database.
    #[arg(long, value_name = "NAME", env = "ORBIT_CLICKHOUSE_DATABASE", default_value = "orbit")]
    pub(crate) clickhouse_database: String,
    /// Wait at most so long for ClickHouse to catch up.
    #[arg(long, value_name = "SECONDS", default_value_t = 180.0, value_parser = seconds)]
    pub(crate) ledger_wait_s: f64,
}

#[derive(Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) scenario: ScenarioArguments,
    /// The server, instead of the scenario's: http://127.0.0.1:PORT.
    #[arg(long)]
    pub(crate) url: Option<Target>,
    /// Process whose CPU time per answer is reported; may be repeated.
    #[arg(long = "pid", value_name = "PID")]
    pub(crate) pids: Vec<u32>,
    #[command(flatten)]
    pub(crate) ledger: LedgerArguments,
}

#[derive(Args)]
pub(crate) struct CompareArguments {
    #[command(flatten)]
    pub(crate) scenario: ScenarioArguments,
    /// Server A.
    #[arg(long)]
    pub(crate) a_url: Target,
    /// A process of A; may be repeated.
    #[arg(long = "a-pid", value_name = "PID", required = true)]
    pub(crate) a_pids: Vec<u32>,
    /// Server B.
    #[arg(long)]
    pub(crate) b_url: Target,
    /// A process of B; may be repeated.
    #[arg(long = "b-pid", value_name = "PID", required = true)]
    pub(crate) b_pids: Vec<u32>,
    /// Rounds of each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// More CPU per answer of A over B than this is a finding.
    #[arg(long, value_name = "RATIO")]
    pub(crate) max_ratio: Option<f64>,
}

#[derive(Args)]
pub(crate) struct ReloadArguments {
    #[command(flatten)]
    pub(crate) run: RunArguments,
    /// The policy directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) policy_dir: PathBuf,
    /// The file in it to rewrite; else the first by name.
    #[arg(long, value_name = "NAME")]
    pub(crate) file: Option<PathBuf>,
    /// Replace this text in every second version; else only a comment is added.
    #[arg(long, value_name = "TEXT", requires = "with")]
    pub(crate) replace: Option<String>,
    /// What --replace is replaced with.
    #[arg(long, value_name = "TEXT", requires = "replace")]
    pub(crate) with: Option<String>,
    /// How often.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) times: u32,
    /// What makes the gateway read the file.
    #[arg(long, value_enum, default_value_t = TriggerChoice::Watch)]
    pub(crate) trigger: TriggerChoice,
    /// The admin listener.
    #[arg(long)]
    pub(crate) admin_url: Target,
    /// File whose first line is the admin token.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// Path of the admin API's apply.
    #[arg(long, value_name = "PATH", default_value = "/v1/policy/apply")]
    pub(crate) apply_path: String,
    /// A reload without effect after so long does not count.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    pub(crate) effect_within_s: f64,
    /// A p99 during reloads of more than this times that without is a finding.
    #[arg(long, value_name = "RATIO", default_value_t = 2.0)]
    pub(crate) max_p99_ratio: f64,
}

#[derive(Args)]
pub(crate) struct IngestArguments {
    /// The ingest listener: http://127.0.0.1:PORT.
    #[arg(long)]
    pub(crate) url: Target,
    /// File whose first line is the ingest token.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// Whose usage it is.
    #[arg(long, value_name = "ID", default_value = "acme-web", value_parser = tenant)]
    pub(crate) tenant: String,
    /// Events in all.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) events: u64,
    /// Events of one request.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) batch: u64,
    /// Share of the acknowledged batches that are sent again.
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = percent)]
    pub(crate) duplicates: f64,
    /// Clients at a time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) clients: u32,
    /// What chance follows; drawn and printed when not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Give up when nothing was acknowledged for so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = seconds)]
    pub(crate) give_up_s: f64,
    #[command(flatten)]
    pub(crate) table: TableArguments,
    /// Write the report as JSON as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Show no progress.
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TriggerChoice {
    /// Its watcher.
    Watch,
    /// A POST to the admin API.
    Apply,
}

fn rate(text: &str) -> Result<Rate, String> {
    match text.parse::<f64>() {
        _ if text == "max" => Ok(Rate::Max),
        Ok(rate) if rate > 0.0 && rate <= 1e7 => Ok(Rate::PerSecond(rate)),
        _ => Err("expected requests per second, or max".to_owned()),
    }
}

fn per_second(text: &str) -> Result<f64, String> {
    match rate(text)? {
        Rate::PerSecond(rate) => Ok(rate),
        Rate::Max => Err("expected requests per second".to_owned()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.strip_suffix('%').unwrap_or(text).parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("expected a share from 0% to 100%".to_owned()),
    }
}

/// Ids as policy documents have them, which are safe in JSON and SQL.
fn tenant(text: &str) -> Result<String, String> {
    let is_plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err("expected a tenant's id".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("expected seconds, more than 0 and at most 86400".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
