//! `orbit alerts`: deliveries of alerts, asked of the running gateway.

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::{Config, output};

/// List the deliveries of alerts, or make dead ones once more
#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  orbit alerts list --state dead           what was given up, and why
  orbit alerts replay --webhook operations once more, when the receiver works again

A delivery is pending until its webhook answers 2xx. It is dead after the last of eleven attempts,
at once when the webhook answers 410 Gone, and when the settings have its webhook no more; then it
waits for a replay. Alerts that everybody has are kept for forty days.")]
pub(super) enum Alerts {
    List(List),
    Replay(Replay),
}

/// List deliveries of alerts, the oldest first
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit alerts list                      what is pending, dead and delivered
  orbit alerts list --state dead --webhook operations --json
  orbit alerts list --since 2026-11-01T00:00:00Z --limit 1000

The gateway must run: it is asked at admin.listen, with the token of admin.token_file.")]
pub(super) struct List {
    #[command(flatten)]
    config: Config,
    /// Only these
    #[arg(long, value_enum)]
    state: Option<Which>,
    /// Only those to this webhook
    #[arg(long, value_name = "ID")]
    webhook: Option<String>,
    /// Only of alerts that were recorded since, such as 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// Go on where a list ended
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Deliver dead alerts once more, from the first attempt on
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit alerts replay msg_0f1e2d3c4b5a69788796a5b4c3d2e1f0
  orbit alerts replay --webhook operations
  orbit alerts replay --all

A webhook that had answered 410 Gone is tried again. The gateway must run, as for `orbit alerts
list`.")]
pub(super) struct Replay {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    what: What,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// The alert, as `orbit alerts list` shows it
    id: Option<String>,
    /// Everything that is dead of this webhook
    #[arg(long, value_name = "ID")]
    webhook: Option<String>,
    /// Everything that is dead
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Pending,
    Dead,
    Delivered,
}

impl Which {
    fn as_str(self) -> &'static str {
        match self {
            Which::Pending => "pending",
            Which::Dead => "dead",
            Which::Delivered => "delivered",
        }
    }
}

impl Alerts {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Alerts::List(list) => list.run(),
            Alerts::Replay(replay) => replay.run(),
        }
    }
}

impl List {
    fn run(self) -> anyhow::Result<()> {
        let answer = ask(&self.config, &Method::GET, &self.path()?)?;
        if self.json {
            output::line(serde_json::to_string_pretty(&answer)?);
            return Ok(());
        }
        let deliveries = answer["deliveries"].as_array().map_or(&[][..], Vec::as_slice);
        output::line(format_args!("{} pending, {} dead", answer["pending"], answer["dead"]));
        for delivery in deliveries {
            let text = |name: &str| delivery[name].as_str().unwrap_or_default().to_owned();
            let at = ["next_attempt_at", "given_up_at", "delivered_at"].map(text).concat();
            let (id, state, webhook) = (text("id"), text("state"), text("webhook"));
            let (attempts, error) = (&delivery["attempts"], text("last_error"));
            output::line(format_args!(
                "{id}  {webhook:<16}  {state:<9}  {at}  {attempts:>2} attempts  {error}"
            ));
        }
        if let Some(next) = answer["next_cursor"].as_str() {
            output::line(format_args!("There is more: --after {next}"));
        }
        Ok(())
    }

    fn path(&self) -> anyhow::Result<String> {
        let mut path = format!("/v1/alerts?limit={}", self.limit);
        let state = self.state.map(Which::as_str);
        let words = [("state", state), ("webhook", self.webhook.as_deref())];
        let words = words
            .into_iter()
            .chain([("since", self.since.as_deref()), ("cursor", self.after.as_deref())]);
        for (name, value) in words {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", plain(value)?));
            }
        }
        Ok(path)
    }
}

impl Replay {
    fn run(self) -> anyhow::Result<()> {
        let path = match (&self.what.id, &self.what.webhook) {
            (Some(id), _) => format!("/v1/alerts/{}/replay", plain(id)?),
            (None, Some(webhook)) => format!("/v1/alerts/replay?webhook={}", plain(webhook)?),
            (None, None) => "/v1/alerts/replay".to_owned(),
        };
        let answer = ask(&self.config, &Method::POST, &path)?;
        output::line(format_args!("{} deliveries are made once more", answer["replayed"]));
        if let Some(left @ 1..) = answer["left"].as_u64() {
            output::line(format_args!("{left} stay dead: the settings have no such webhook"));
        }
        Ok(())
    }
}

/// An id, a time or a cursor as part of a path.
fn plain(text: &str) -> anyhow::Result<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '+');
    if text.is_empty() || !text.chars().all(fits) {
        bail!("`{text}` is neither an id nor a time nor a cursor");
    }
    Ok(text.replace('+', "%2B"))
}

/// Asks the gateway's admin API.
fn ask(config: &Config, method: &Method, path: &str) -> anyhow::Result<Value> {
    let settings = config.load()?;
    let admin = &settings.admin;
    let file = admin.token_file.display();
    let token = std::fs::read_to_string(&admin.token_file)
        .with_context(|| format!("cannot read the admin token {file}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client: Client<HttpConnector, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).build_http();
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", admin.listen))
            .header("authorization", format!("Bearer {}", token.trim()))
            .body(Full::default())?;
        let answer = client.request(request).await;
        let answer = answer.with_context(|| format!("no gateway answers at {}", admin.listen))?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !status.is_success() {
            bail!("the gateway answered {status}: {}", body["detail"].as_str().unwrap_or_default());
        }
        Ok(body)
    })
}
