//! The process's own log and metrics.
//!
//! Owns installing both, once per process, and the text that `/metrics` answers. Guarantees that
//! standard output stays for command output (logs go to standard error) and that no metric here or
//! elsewhere is labelled by tenant: the number of series never follows the number of customers.

mod process;

use std::sync::{Mutex, PoisonError};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::settings::{Log, LogFormat};

/// Upper bounds of every `*_seconds` histogram: 0.5 ms (what a proxied request costs) to 30 s (the
/// longest reasonable upstream), about a factor of two apart.
pub const SECONDS_BUCKETS: [f64; 17] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0,
    30.0,
];

/// Directives that come after the operator's, and so count.
const PINGORA: &str = "pingora_core=off,pingora_proxy=off,pingora_pool=off";

/// Log or metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.level` is not a level or a list of directives.
    #[error("`{level}` is not a log level")]
    Level {
        /// The setting as written.
        level: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The metrics recorder could not be built or installed.
    #[error("cannot install the metrics recorder")]
    Metrics(#[source] BuildError),
}

/// Starts logging to standard error. A second call in one process changes nothing.
pub fn start_log(settings: &Log) -> Result<(), TelemetryError> {
    // pingora logs a line for every client that breaks off or sends nonsense, at `debug` with the
    // bytes it sent, keys included: whatever level is set, that stays out.
    let filter = EnvFilter::try_new(format!("{},{PINGORA}", settings.level))
        .map_err(|source| TelemetryError::Level { level: settings.level.clone(), source })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // The only failure is that a log was started before, which then stays.
    let started = match settings.format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            log.with_ansi(colours).with_target(false).try_init().is_ok()
        }
        LogFormat::Json => log.json().flatten_event(true).try_init().is_ok(),
    };
    if !started {
        tracing::debug!("the log was already started");
    }
    Ok(())
}

/// The installed metrics recorder.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Installs the process's recorder, or returns the one already installed by this function.
    pub fn install() -> Result<Metrics, TelemetryError> {
        static INSTALLED: Mutex<Option<Metrics>> = Mutex::new(None);
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = &*installed {
            return Ok(metrics.clone());
        }
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(TelemetryError::Metrics)?;
        process::describe();
        Ok(installed.insert(Metrics { handle }).clone())
    }

    /// Every metric in Prometheus text format 0.0.4, with the process's own read just now.
    pub fn render(&self) -> String {
        process::observe();
        self.handle.render()
    }

    /// Moves histogram samples into their buckets; to be called every few seconds so that memory
    /// stays bounded while nobody scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_carry_the_process() {
        let metrics = Metrics::install().expect("installed");
        let again = Metrics::install().expect("the same recorder");
        metrics::counter!("orbit_test_things_total").increment(3);
        metrics::histogram!("orbit_test_seconds").record(0.003);
        again.upkeep();
        let text = metrics.render();
        assert!(text.contains("orbit_test_things_total 3"), "{text}");
        assert!(text.contains("orbit_test_seconds_bucket{le=\"0.005\"} 1"), "{text}");
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        };
        assert!(value("process_resident_memory_bytes").is_some_and(|bytes| bytes > 1e6), "{text}");
        assert!(value("process_open_fds").is_some_and(|open| open > 2.0), "{text}");
        // A process this young may not have used a whole clock tick.
        assert!(value("process_cpu_seconds").is_some_and(|seconds| seconds >= 0.0), "{text}");
        assert!(text.contains(&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))), "{text}");
    }
}
