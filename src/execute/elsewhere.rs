//! An execution that runs at another replica: it is asked for again and again, more and more seldom, until it is settled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openexec_protocol::refusal::Refusal;
use tokio::time::sleep;

use super::{claim, flight};
use crate::ledger::{Execution, Ledger, State};
use crate::listen::Permits;

/// Before the first question; each later pause is longer by half.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Waits until it is settled, for a time, and while not too many others wait: they all ask the ledger.
pub(super) async fn settled(
    ledger: &dyn Ledger,
    waiting: &Arc<Permits>,
    tenant: &str,
    nonce: &str,
    wait: Duration,
) -> Result<Arc<Execution>, Refusal> {
    let _permit = waiting.take().ok_or_else(flight::in_flight)?;
    let until = Instant::now() + wait;
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        match ledger.look_up(tenant, nonce).await.map_err(claim::unavailable)? {
            Some(execution) if execution.state != State::Intent => return Ok(execution),
            // It was withdrawn: whoever asks again may execute it.
            None => return Err(flight::in_flight()),
            Some(_) if Instant::now() >= until => return Err(flight::in_flight()),
            Some(_) => pause = (pause * 3 / 2).min(LONGEST_PAUSE),
        }
    }
}
