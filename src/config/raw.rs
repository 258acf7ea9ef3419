//! The configuration file as it was typed. Unknown members are refused.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::ledger::FencePolicy;

/// The whole file. What is absent has its default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub mode: Option<String>,
    pub listen: Option<String>,
    pub admin: Admin,
    pub ledger: Ledger,
    pub approval: Approval,
    pub replay: Replay,
    pub actions: Actions,
    pub limits: Limits,
    pub shutdown: Shutdown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    pub listen: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ledger {
    pub url: Option<String>,
    pub anchor: Option<PathBuf>,
    pub create: Option<bool>,
    pub fence: Option<FencePolicy>,
    pub cache_bytes: Option<usize>,
    pub memory_bytes: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Approval {
    #[serde(with = "humantime_serde")]
    pub clock_skew: Option<Duration>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Replay {
    pub on_mismatch: Option<OnMismatch>,
    #[serde(with = "humantime_serde")]
    pub wait: Option<Duration>,
    pub waiters: Option<usize>,
}

/// What a known nonce with another payload gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnMismatch {
    /// The first request's answer, as 0.2.0 did. Demo mode only.
    Original,
    /// 422.
    Reject,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Actions {
    pub allowed: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub header_bytes: Option<usize>,
    #[serde(with = "humantime_serde")]
    pub header_time: Option<Duration>,
    pub body_bytes: Option<usize>,
    pub receipt_body_bytes: Option<usize>,
    #[serde(with = "humantime_serde")]
    pub body_time: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub write_time: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub idle_time: Option<Duration>,
    pub json_depth: Option<usize>,
    pub json_nodes: Option<usize>,
    pub connections: Option<usize>,
    pub connection_requests: Option<u32>,
    pub in_flight: Option<usize>,
    pub buffered_bytes: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Shutdown {
    #[serde(with = "humantime_serde")]
    pub delay: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub timeout: Option<Duration>,
}
