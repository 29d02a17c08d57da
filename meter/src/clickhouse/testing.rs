//! A throwaway engine for tests, benchmarks and load tests. Not used by the product.
//!
//! A program that has the `orbit` binary at hand starts that with [`start`]. A test program that
//! has not is its own engine: it registers one test that serves, and starts itself.
//!
//! ```no_run
//! use orbit_meter::clickhouse::{Store, testing};
//!
//! #[test]
//! fn engine_process() {
//!     testing::serve_if_asked();
//! }
//!
//! #[test]
//! fn it_answers() {
//!     let directory = std::env::temp_dir().join("orbit-example");
//!     let engine = testing::start_self(&directory, "engine_process");
//!     let store = Store::new(&engine.settings()).expect("valid settings");
//! }
//! ```
//!
//! The engine ends with the [`Engine`] value, and at the latest with the test program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::engine::{Engine, EngineSettings, ServeArguments, serve};
use crate::causes::with_causes;

/// Starts an engine with free ports and 2 GiB of memory in `data`, run by `program arguments...`.
///
/// # Panics
/// With the whole reason when it does not start, for instance that `make engine` has not been run.
pub fn start<A: AsRef<OsStr>>(data: &Path, program: &Path, arguments: &[A]) -> Engine {
    let settings = EngineSettings { max_memory_bytes: 2 << 30, ..EngineSettings::new(data) };
    match Engine::start(&settings, program, arguments) {
        Ok(engine) => engine,
        Err(error) => panic!("no ClickHouse engine for this test: {}", with_causes(&error)),
    }
}

/// Like [`start`], run by this test program itself: `test` is the full name of the test that calls
/// [`serve_if_asked`].
///
/// # Panics
/// Like [`start`].
pub fn start_self(data: &Path, test: &str) -> Engine {
    let program = env::current_exe().expect("a running test has a file");
    // The test harness takes what follows `--` for further names of tests, of which there are none.
    start(data, &program, &["--exact", test, "--nocapture", "--"])
}

/// Serves the engine if this test program was started by [`start_self`], else returns at once.
///
/// # Panics
/// When the engine cannot be served; the reason becomes part of the parent's error.
pub fn serve_if_asked() {
    let arguments: Vec<OsString> =
        env::args_os().skip_while(|argument| argument != "--").skip(1).collect();
    if arguments.is_empty() {
        return;
    }
    let arguments = ServeArguments::parse(arguments).expect("start_self gives valid arguments");
    if let Err(error) = serve(&arguments) {
        panic!("{}", with_causes(&error));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn engine_process() {
        super::serve_if_asked();
    }
}
