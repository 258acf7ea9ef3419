//! Properties that must hold for all bytes that somebody can send or write. `make fuzz` looks for bytes for which they
//! do not; `tests/replay.rs` replays the seeds with every `make test`.
//!
//! Each module is a target. Its `check` panics when a property does not hold, and says what it has seen: a replay whose
//! seeds are all refused at once would show nothing, so the test asks for more than that no seed panics. What is right is
//! told by a second, slower and simpler implementation wherever there can be one.

#![allow(clippy::unwrap_used)] // a panic is how a target says no

pub mod approval;
pub mod chunks;
pub mod config;
pub mod http_head;
pub mod ledger;
pub mod path;
pub mod request;

use std::collections::BTreeSet;

/// What came about.
pub type Seen = BTreeSet<&'static str>;
