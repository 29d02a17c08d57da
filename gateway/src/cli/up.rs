//! `orbit up`: everything at once, to try Orbit.
//!
//! Owns the data directory's layout, the demo upstream and what is printed. Guarantees that
//! everything it makes is below `--data` (mode 0700) and that nothing it started outlives it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::demo_keys::{self, DemoKeys, SHOWN_TENANT};
use super::{Config, output};
use crate::demo::Demo;
use crate::run::{self, Addresses};
use crate::settings::{ClickHouseMode, Settings};
use crate::telemetry;

/// Run everything: engine, gateway and a demo upstream
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit up
  orbit up --data /tmp/orbit --listen 127.0.0.1:8088

Everything it makes is below --data: the engine's data, the journal, what limits have spent,
the tokens, the demo keys.
Ctrl-C or SIGTERM stops all of it.")]
pub(super) struct Up {
    #[command(flatten)]
    config: Config,
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Listen here instead of server.listen
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Listen here instead of admin.listen
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// Listen here instead of ingest.listen
    #[arg(long, value_name = "ADDRESS")]
    ingest_listen: Option<SocketAddr>,
    /// The engine's HTTP port instead of clickhouse.http_port
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// The engine's native port instead of clickhouse.tcp_port
    #[arg(long, value_name = "PORT")]
    tcp_port: Option<u16>,
    /// Where the demo upstream listens; config/policy/routes.toml names the same address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    demo_listen: SocketAddr,
}

impl Up {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut settings = self.settings()?;
        telemetry::start_log(&settings.log)?;
        let keys = DemoKeys::ensure(&self.data)?;
        settings.policy.paths.push(keys.policy.clone());
        let demo = Demo::start(self.demo_listen)
            .with_context(|| format!("the demo upstream cannot listen on {}", self.demo_listen))?;
        let token_file = settings.admin.token_file.clone();
        let ingest_token_file = settings.ingest.token_file.clone();
        let finance = match settings.clickhouse.mode {
            ClickHouseMode::Embedded => Some(settings.clickhouse.data.join("finance.password")),
            ClickHouseMode::External => None,
        };
        let shown = Tour { keys, token_file, ingest_token_file, finance };
        let ready = |addresses: &Addresses| output::line(shown.text(addresses));
        run::run_gateway(settings, &std::env::current_exe()?, ready)?;
        drop(demo);
        output::line("Stopped.");
        Ok(())
    }

    /// The settings file, with everything it keeps moved below the data directory.
    fn settings(&self) -> anyhow::Result<Settings> {
        let mut settings = self.config.load()?;
        settings.journal.directory = self.data.join("journal");
        settings.limits.directory = self.data.join("state");
        settings.clickhouse.data = self.data.join("clickhouse");
        settings.admin.token_file = self.data.join("admin.token");
        settings.ingest.token_file = self.data.join("ingest.token");
        if let Some(address) = self.listen {
            settings.server.listen = vec![address];
        }
        if let Some(address) = self.admin_listen {
            settings.admin.listen = address;
        }
        if self.ingest_listen.is_some() {
            settings.ingest.listen = self.ingest_listen;
        }
        if let Some(port) = self.http_port {
            settings.clickhouse.http_port = port;
        }
        if let Some(port) = self.tcp_port {
            settings.clickhouse.tcp_port = port;
        }
        Ok(settings)
    }
}

/// What is printed when everything runs.
struct Tour {
    keys: DemoKeys,
    token_file: PathBuf,
    ingest_token_file: PathBuf,
    /// The password of the embedded engine's read-only user.
    finance: Option<PathBuf>,
}

impl Tour {
    /// What to try, as lines that can be pasted.
    fn text(&self, addresses: &Addresses) -> String {
        let proxy = match addresses.proxy.first() {
            Some(address) => format!("http://{address}"),
            None => "the TLS listener".to_owned(),
        };
        let admin = format!("http://{}", addresses.admin);
        let token = self.token_file.display();
        let env_file = shell_path(&self.keys.env_file);
        let variable = demo_keys::variable(SHOWN_TENANT);
        let key = format!("-H \"Authorization: Bearer ${variable}\"");
        let keys = match &self.keys.made {
            Some(shown) => format!(
                "Made demo keys in {env_file}; the one of {SHOWN_TENANT}, shown this once:\n\n    \
                 {shown}\n"
            ),
            None => format!("The demo keys made earlier are in {env_file}.\n"),
        };
        let rows = self.rows(addresses);
        let (ingest, event) = self.event(addresses);
        format!(
            "\nOrbit is running: proxy {proxy}, admin {admin}{ingest}\n\n{keys}\n\
             Try, in another terminal, in this directory:\n\n\
             \x20   . {env_file}\n\
             \x20   curl -i {proxy}/crm/hello {key}      # 200, and what is left\n\
             \x20   curl -i {proxy}/crm/hello            # 401: no key\n\
             \x20   curl -i {proxy}/ai/hello {key}       # 403: not in the plan\n\
             \x20   for i in $(seq 40); do curl -s -o /dev/null -w '%{{http_code}} ' \
             {proxy}/crm/hello {key}; done; echo        # 200 until the burst is spent, then 429\n\
             \x20   curl -s {admin}/v1/tenants/{SHOWN_TENANT}/usage \
             -H \"Authorization: Bearer $(cat {token})\"\n\
             {event}{rows}\n\
             Ctrl-C stops everything.\n"
        )
    }

    /// Where events are sent to and how, unless there is no listener.
    fn event(&self, addresses: &Addresses) -> (String, String) {
        let Some(ingest) = addresses.ingest else { return Default::default() };
        let sent = format!(
            "\x20   curl -s http://{ingest}/v1/events -H \"Authorization: Bearer $(cat {})\" \
             -H 'Content-Type: application/cloudevents+json' -d '{{\"specversion\":\"1.0\",\
             \"id\":\"1\",\"source\":\"/tour\",\"type\":\"automations\",\"subject\":\"{SHOWN_TENANT}\",\
             \"data\":{{\"quantity\":12}}}}'        # counts once, however often it is sent\n",
            self.ingest_token_file.display()
        );
        (format!(", ingest http://{ingest}"), sent)
    }

    /// How to see the rows, when the engine is ours.
    fn rows(&self, addresses: &Addresses) -> String {
        let Some(password) = &self.finance else { return String::new() };
        format!(
            "\x20   curl -s {}/ -H \"X-ClickHouse-User: finance\" \
             -H \"X-ClickHouse-Key: $(cat {})\" \
             -d \"SELECT ts, tenant, route, status, quantity FROM orbit.usage_events \
             ORDER BY ts DESC LIMIT 10\"\n",
            addresses.database_url,
            password.display()
        )
    }
}

/// A path `.` takes: one without a slash would be searched for in `$PATH`.
fn shell_path(path: &Path) -> String {
    let text = path.display().to_string();
    if path.is_absolute() || text.starts_with('.') { text } else { format!("./{text}") }
}
