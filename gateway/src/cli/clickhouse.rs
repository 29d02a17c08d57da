//! `orbit clickhouse`: serves the embedded engine in this process.
//!
//! It is also what the gateway runs as its child, so it must not start a thread before the engine
//! has the process.

use std::path::PathBuf;

use clap::Args;
use orbit_meter::clickhouse::engine::{self, ServeArguments};

use crate::settings::Log;
use crate::telemetry;

/// Serve the embedded ClickHouse engine until SIGTERM or SIGINT
#[derive(Args)]
#[command(after_help = "\
Examples:
  orbit clickhouse --data data/clickhouse
  curl \"http://127.0.0.1:8123/?query=SELECT+version()\" -H \"X-ClickHouse-User: finance\" \\
    -H \"X-ClickHouse-Key: $(cat data/clickhouse/finance.password)\"

`orbit up` and `orbit gateway` start it by themselves; one engine serves one data directory.")]
pub(super) struct Clickhouse {
    /// Data directory, created when absent
    #[arg(long, value_name = "DIR", default_value = "data/clickhouse")]
    data: PathBuf,
    /// The engine's libchdb.so [default: $ORBIT_LIBCHDB, then where `make engine` installs it]
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// HTTP interface on 127.0.0.1; 0 takes a free port
    #[arg(long, value_name = "PORT", default_value_t = 8123)]
    http_port: u16,
    /// Native interface on 127.0.0.1; 0 takes a free port
    #[arg(long, value_name = "PORT", default_value_t = 9000)]
    tcp_port: u16,
    /// Most memory the engine may use, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 30)]
    max_memory_bytes: u64,
    /// Also stop at the end of standard input and when the parent process dies
    #[arg(long)]
    exit_with_parent: bool,
}

impl Clickhouse {
    pub(super) fn run(self) -> anyhow::Result<()> {
        telemetry::start_log(&Log::default())?;
        engine::serve(&ServeArguments {
            library: self.library,
            data: self.data,
            http_port: self.http_port,
            tcp_port: self.tcp_port,
            max_memory_bytes: self.max_memory_bytes,
            exit_with_parent: self.exit_with_parent,
        })?;
        Ok(())
    }
}
