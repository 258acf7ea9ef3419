//! Settles an outcome that nobody knew. An operator and recovery do it, and never both for one execution.

use std::sync::Arc;

use super::{Gate, record};
use crate::ledger::{Execution, LedgerError, Outcome, State};
use crate::registry::Ended;

/// Why an unknown outcome was not settled.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// A recovery is about to find out.
    #[error("a recovery is trying to find out now")]
    Recovering,
    /// There is none with this id whose outcome is unknown.
    #[error("its outcome is not unknown")]
    NotUnknown,
    /// The ledger did not do it.
    #[error(transparent)]
    Ledger(LedgerError),
}

/// See [`Gate::settle_alone`].
pub(super) struct Settling<'g> {
    gate: &'g Gate,
    id: String,
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        self.gate.settling.lock().remove(&self.id);
    }
}

impl Gate {
    /// Settles an unknown outcome; `by` says who knows.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn resolve(&self, id: &str, ended: Ended, by: &str) -> Result<Arc<Execution>, ResolveError> {
        let ledger = self.ledger().ok_or(ResolveError::Ledger(LedgerError::Unavailable))?;
        let _settling = self.settle_alone(id).ok_or(ResolveError::Recovering)?;
        let settled = ledger.resolve(id, &record::outcome(id, ended).await, by).await;
        self.unknown.notify_one();
        match settled {
            // Unknown still: another replica has the turn.
            Err(LedgerError::NotOurs) if ledger.is_shared() => match ledger.find(id).await {
                Ok(Some(found)) if found.execution.state == State::Settled(Outcome::Unknown) => {
                    Err(ResolveError::Recovering)
                }
                _ => Err(ResolveError::NotUnknown),
            },
            Err(LedgerError::NotOurs) => Err(ResolveError::NotUnknown),
            settled => settled.map_err(ResolveError::Ledger),
        }
    }

    /// Keeps everybody else from settling this one: what an operator says must not be overtaken by a recovery's
    /// dispatch, nor the other way round.
    pub(super) fn settle_alone(&self, id: &str) -> Option<Settling<'_>> {
        self.settling.lock().insert(id.to_owned()).then(|| Settling { gate: self, id: id.to_owned() })
    }
}
