//! Everything Orbit knows of ClickHouse: the embedded engine, the client, the Native encoder, the
//! schema and the named queries.
//!
//! No other crate names ClickHouse. One set of connection settings serves an embedded engine and an
//! external server alike; the rest of the program cannot tell which it talks to.
//!
//! | module | owns |
//! |---|---|
//! | [`engine`] | the embedded server: its child process, its data directory, its users |
//! | [`store`] | the HTTP client: inserts that are never guessed about, reads, migrations |
//! | [`native`] | blocks of `usage_events` in ClickHouse's Native format |
//! | [`schema`] | numbered migrations and the list of columns |
//! | [`proof`] | what proves that the rows are complete: the manifest, and known losses |
//! | [`nodes`] | how far every node has got |
//! | [`own`] | what a tenant asks about its own part of the tree |
//! | [`queries`] | the named queries finance starts from |
//! | [`testing`] | a throwaway engine for tests and load tests |

pub mod consumption;
pub mod engine;
pub mod native;
pub mod nodes;
pub mod own;
pub mod proof;
pub mod queries;
mod rows;
pub mod schema;
pub mod store;
pub mod testing;

use std::fmt;

pub use native::{BlockBuilder, EncodedBlock};
pub use schema::{AppliedMigration, MigrateOptions};
pub use store::{InsertError, Store, StoreError};

/// Where ClickHouse is and who we are there. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ClickHouseSettings {
    /// Base URL of the HTTP interface: `http://127.0.0.1:8123`, or `https://...` for TLS.
    pub url: String,
    /// User name, sent in a header.
    pub user: String,
    /// Password, sent in a header and never printed.
    pub password: String,
    /// Database that holds `usage_events`; created by the migrations when absent.
    pub database: String,
}

impl fmt::Debug for ClickHouseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClickHouseSettings")
            .field("url", &self.url)
            .field("user", &self.user)
            .field("password", &"***")
            .field("database", &self.database)
            .finish()
    }
}
