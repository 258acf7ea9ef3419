//! OpenExec: the gate between automation and the real world.
//!
//! A request meets the modules in this order; ARCHITECTURE.md walks the way once more in prose.

#![forbid(unsafe_code)]

pub mod config;

pub mod listen;

pub mod execute;

pub mod upstream;

pub mod ledger;

pub mod admin;
pub mod app;
mod beside;
pub mod bypass;
pub mod cli;
pub mod clock;
pub mod current;
pub mod headers;
pub mod huge_pages;
pub mod inject;
pub mod injector;
pub mod logging;
pub mod metrics;
pub mod openapi;
pub mod path;
pub mod pem;
pub mod redirect;
pub mod registry;
pub mod reload;
pub mod shutdown;
pub mod takeover;
pub mod telemetry;
pub mod trace;

/// This build's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Who asks, in requests of our own.
pub const USER_AGENT: &str = concat!("openexec/", env!("CARGO_PKG_VERSION"));
