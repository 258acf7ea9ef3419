//! How long what was executed is remembered.

use std::time::Duration;

use openexec_protocol::approval::HMAC_LIFETIME_SECONDS;

use humantime_serde::re::humantime::format_duration;

use super::{Check, raw};

/// How long what was executed is remembered, from when it was settled.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Results. A retry after that is told the execution and its receipt (410).
    pub results: Duration,
    /// Executions: nonces and used approvals. `None`: for ever.
    pub tombstones: Option<Duration>,
    /// Refused requests of each tenant.
    pub denials: usize,
}

/// Thirty days.
const RESULTS: Duration = Duration::from_secs(30 * 86_400);
/// They are counted at the first one after a start.
const MOST_DENIALS: usize = 100_000;
/// What has no `expires_at` is good for this long, whatever is configured.
pub const HMAC_LIFETIME: Duration = Duration::from_secs(HMAC_LIFETIME_SECONDS as u64);
/// A client that retries must find its answer.
const SHORTEST_RESULTS: Duration = Duration::from_secs(60);

impl Check {
    /// An approval, which may be as old as `max_lifetime`, must not outlive the memory of its use.
    pub(super) fn retention(
        &mut self,
        file: raw::Retention,
        max_lifetime: Duration,
        clock_skew: Duration,
        in_memory: bool,
    ) -> Retention {
        let denials = file.denials.unwrap_or(10_000);
        let retention = Retention { results: file.results.unwrap_or(RESULTS), tombstones: file.tombstones, denials };
        if denials > MOST_DENIALS {
            self.problems.push(format!("retention.denials must be at most {MOST_DENIALS}"));
        }
        if retention.results < SHORTEST_RESULTS {
            self.problems.push(format!("retention.results must be at least {}", format_duration(SHORTEST_RESULTS)));
        }
        let shortest =
            max_lifetime.max(HMAC_LIFETIME).saturating_add(clock_skew.saturating_mul(2)).max(retention.results);
        if retention.tombstones.is_some_and(|kept| kept < shortest) {
            self.problems.push(format!(
                "retention.tombstones must be at least {}: approval.max_lifetime and twice \
                 approval.clock_skew, and retention.results",
                format_duration(shortest)
            ));
        }
        if retention.tombstones.is_some() && in_memory {
            self.warnings.push("retention.tombstones means nothing for memory:, which keeps all of them".to_owned());
        }
        retention
    }
}
