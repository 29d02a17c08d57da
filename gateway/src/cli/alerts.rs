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
pub(super) enum Alerts {
    List(List),
    Replay(Replay),
}

/// List deliveries of alerts
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit alerts list                      what is pending, dead and delivered
  orbit alerts list --state dead --json

The gateway must run: it is asked at admin.listen, with the token of admin.token_file.")]
pub(super) struct List {
    #[command(flatten)]
    config: Config,
    /// Only these
    #[arg(long, value_enum)]
    state: Option<Which>,
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
  orbit alerts replay --all")]
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
        let query = match self.state {
            None => "",
            Some(Which::Pending) => "?state=pending",
            Some(Which::Dead) => "?state=dead",
            Some(Which::Delivered) => "?state=delivered",
        };
        let answer = ask(&self.config, &Method::GET, &format!("/v1/alerts{query}"))?;
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
        Ok(())
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
        Ok(())
    }
}

/// An id as part of a path.
fn plain(id: &str) -> anyhow::Result<&str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || !id.chars().all(fits) {
        bail!("`{id}` is no id");
    }
    Ok(id)
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
