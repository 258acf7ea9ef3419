//! The claim: one round trip, and what is done when its answer was lost.
//!
//! Whether a commit happened is not known when its acknowledgement does not come. The claim is then made once more with the
//! same token: if the first one was stored, or still is on its way, this one finds it, or waits for it. A claim that was
//! found is confirmed by a write, whose acknowledgement says that the database keeps it too. Nothing is dispatched
//! before that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::acks::{Ack, Begun};
use super::failure::Failure;
use super::row::{execution, get};
use super::shared::{GivenUp, Parameters, Shared, Standing};
use super::sql;
use crate::ledger::{Claim, Claimed, Done, Execution, LedgerError, NewExecution, Outcome, State};

/// How often a claim is made.
const ATTEMPTS: u32 = 5;
/// Before the second one, and twice as long before each later one.
const PAUSE: Duration = Duration::from_millis(10);

/// What the database said to one attempt.
enum Said {
    /// It is stored, at this place.
    Stored(i64),
    /// It was stored by an attempt whose answer was lost.
    Found(i64),
    /// The nonce belongs to this one.
    Known(Execution),
    /// The nonce is new; the approval belongs to another one, or the id does.
    Used,
    /// The approval is older than what the ledger knows.
    BehindFence,
    /// Nothing can be stored now.
    NotNow,
}

pub(super) async fn claim(shared: &Shared, new: NewExecution, result: Option<Done>) -> Result<Claimed, LedgerError> {
    let standing = shared.standing();
    let begun = shared.acks.lock().begin();
    // No action takes longer than half a lease. With less nothing would be sent, and the approval used all the same.
    if result.is_none() && !standing.lease.lasts_for(shared.config.lease / 2) {
        shared.attention.notify_one();
        let known = look_up(shared, &new.tenant, &new.nonce).await?;
        return known.map(Claimed::Known).ok_or(LedgerError::Unavailable);
    }
    let state = result.map_or(State::Intent, |done| State::Settled(Outcome::Done(done)));
    let mut attempts = Attempts {
        // Random, so that no claim of another process can be taken for ours.
        token: Uuid::new_v4().as_u64_pair().0 as i64,
        state,
        standing,
        begun,
        are_doubtful: false,
    };
    let claimed = attempts.make(shared, &new).await;
    match claimed {
        Ok(Said::Stored(seq) | Said::Found(seq)) => Ok(attempts.stored(shared, new, seq)),
        Ok(Said::Known(known)) => {
            attempts.give_up(shared, new);
            Ok(Claimed::Known(Arc::new(known)))
        }
        Ok(said) => {
            let (has_approval, are_doubtful) = (new.approval_id.is_some(), attempts.are_doubtful);
            attempts.give_up(shared, new);
            match said {
                Said::Used if has_approval => Ok(Claimed::ApprovalUsed),
                Said::BehindFence => Ok(Claimed::BehindFence),
                _ if are_doubtful => Err(LedgerError::Doubtful),
                // Of a random id that is taken, another may be tried.
                _ => Err(LedgerError::Unavailable),
            }
        }
        Err(error) => {
            let error = if attempts.are_doubtful { LedgerError::Doubtful } else { error };
            attempts.give_up(shared, new);
            Err(error)
        }
    }
}

pub(super) async fn look_up(shared: &Shared, tenant: &str, nonce: &str) -> Result<Option<Arc<Execution>>, LedgerError> {
    let rows = shared.run(sql::LOOK_UP, &[(&tenant, Type::TEXT), (&nonce, Type::TEXT)]).await?;
    rows.first().map(|row| execution(row).map(Arc::new)).transpose()
}

/// A claim, however often it is made.
struct Attempts {
    token: i64,
    state: State,
    standing: Standing,
    begun: Begun,
    /// One of them may have been stored, or may still be.
    are_doubtful: bool,
}

impl Attempts {
    async fn make(&mut self, shared: &Shared, new: &NewExecution) -> Result<Said, LedgerError> {
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                sleep(PAUSE * 2_u32.pow(attempt - 1)).await;
            }
            let said = match insert(shared, new, &self.state, self.token, &self.standing, self.are_doubtful).await {
                Ok(row) => read(&row, &self.state, self.token)?,
                Err(Failure::Again) => continue,
                Err(Failure::Nothing(error)) if !self.are_doubtful => return Err(error),
                Err(Failure::Nothing(_) | Failure::Ambiguous) => {
                    self.are_doubtful = true;
                    continue;
                }
            };
            match said {
                Said::Found(seq) => match confirm(shared, seq, self.token).await {
                    Ok(Some(found)) if found.as_str() == self.state.as_str() => return Ok(said),
                    // Others took us for dead, and settled it; or nobody knows.
                    Ok(_) | Err(_) => self.are_doubtful = true,
                },
                Said::BehindFence | Said::NotNow => {
                    // The keeper finds out why, and does something about it.
                    shared.attention.notify_one();
                    return Ok(said);
                }
                said => return Ok(said),
            }
        }
        Err(LedgerError::Unavailable)
    }

    fn stored(self, shared: &Shared, new: NewExecution, seq: i64) -> Claimed {
        let Attempts { token, state, standing, begun, .. } = self;
        shared.acks.lock().push(Ack { seq, token, state: state.as_str() }, begun);
        let action_hash = new.action_hash.as_str().to_owned();
        let execution = Arc::new(Execution { id: new.id, action: new.action, action_hash, key_id: new.key_id, state });
        Claimed::New(Claim::under_lease(execution.clone(), seq, token, standing.lease), execution)
    }

    /// What may come late must not be left running: nothing is dispatched.
    fn give_up(self, shared: &Shared, new: NewExecution) {
        if self.are_doubtful && self.state == State::Intent {
            let given_up = GivenUp { tenant: new.tenant, nonce: new.nonce, token: self.token, at: Instant::now() };
            shared.given_up.lock().push(given_up);
            shared.attention.notify_one();
        }
    }
}

async fn insert(
    shared: &Shared,
    new: &NewExecution,
    state: &State,
    token: i64,
    standing: &Standing,
    is_doubtful: bool,
) -> Result<Row, Failure> {
    let done = match state {
        State::Settled(Outcome::Done(done)) => Some(done),
        _ => None,
    };
    let dispatched = new.dispatched.as_ref();
    let settled_at = done.map(|_| new.claimed_at);
    let (receipt, result) = (done.map(|done| done.receipt.as_str()), done.map(|done| done.result.as_str()));
    let payload = dispatched.and_then(|dispatched| dispatched.payload.as_deref());
    let (route, policy) = (dispatched.map(|d| d.route.as_str()), dispatched.map(|d| d.policy.as_str()));
    let heard_beat = shared.acks.lock().last_beat();
    let parameters: Parameters<'_> = &[
        (&new.id, Type::TEXT),
        (&&*new.tenant, Type::TEXT),
        (&new.nonce, Type::TEXT),
        (&new.action, Type::TEXT),
        (&new.action_hash.as_str(), Type::TEXT),
        (&state.as_str(), Type::TEXT),
        (&new.claimed_at, Type::TIMESTAMPTZ),
        (&settled_at, Type::TIMESTAMPTZ),
        (&new.approval_id, Type::TEXT),
        (&token, Type::INT8),
        (&payload, Type::TEXT),
        (&receipt, Type::TEXT),
        (&result, Type::TEXT),
        (&route, Type::TEXT),
        (&policy, Type::TEXT),
        (&new.key_id, Type::TEXT),
        (&new.caller.as_deref(), Type::TEXT),
        (&standing.replica, Type::UUID),
        (&new.issued_at, Type::TIMESTAMPTZ),
        (&shared.config.require_synchronous, Type::BOOL),
        (&heard_beat, Type::INT8),
    ];
    let asked = Instant::now();
    let rows = if is_doubtful {
        shared.ask(sql::CLAIM, parameters).await?
    } else {
        shared.run(sql::CLAIM, parameters).await?
    };
    shared.metrics.ledger_committed(1, asked.elapsed());
    rows.into_iter().next().ok_or(Failure::Nothing(LedgerError::Unavailable))
}

fn read(row: &Row, state: &State, token: i64) -> Result<Said, LedgerError> {
    Ok(match get::<Option<&str>>(row, 9)?.unwrap_or("used") {
        "stored" => Said::Stored(get(row, 10)?),
        "known" => {
            let known = execution(row)?;
            let is_ours = get::<Option<i64>>(row, 11)? == Some(token) && known.state.as_str() == state.as_str();
            if is_ours { Said::Found(get(row, 10)?) } else { Said::Known(known) }
        }
        "used" => Said::Used,
        "behind the fence" => Said::BehindFence,
        _ => Said::NotNow,
    })
}

/// How the row is now, durably; `None`: it is not there, or could not be made there.
async fn confirm(shared: &Shared, seq: i64, token: i64) -> Result<Option<State>, Failure> {
    let must_be_synchronous = shared.config.require_synchronous;
    let parameters: Parameters<'_> = &[(&seq, Type::INT8), (&token, Type::INT8), (&must_be_synchronous, Type::BOOL)];
    let rows = shared.ask(sql::CONFIRM_CLAIM, parameters).await?;
    Ok(rows.first().map(execution).transpose()?.map(|execution| execution.state))
}
