//! The Orbit gateway: what stands between clients and upstreams, and what operators hold on to.
//!
//! The proxy itself ([`server`], [`proxy`], [`upstreams`]) identifies, routes, admits, forwards and
//! records. Around it stand its [`settings`], the one path by which policy comes into force
//! ([`reload`]), the operators' API ([`admin`]), the tenants' own ([`tenant_api`]), alerts
//! ([`alerts`]), log and metrics ([`telemetry`]), the usage database ([`storage`]) and the command
//! line ([`cli`]). It is a library so that tests and benchmarks use the same parts as the `orbit`
//! binary, which is only `main`.

pub mod admin;
pub mod alerts;
mod api;
pub mod audit;
pub mod background;
pub mod cli;
pub mod clock;
pub mod demo;
pub mod ingest;
pub mod limit_state;
pub mod members;
pub mod proxy;
pub mod quota_state;
pub mod reload;
pub mod run;
pub mod server;
pub mod settings;
pub mod storage;
pub mod telemetry;
pub mod tenant_api;
pub mod upstreams;
