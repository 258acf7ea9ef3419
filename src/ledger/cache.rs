//! Finished answers, so that a retry does not ask the disk. Bounded in bytes; truth stays in the ledger.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use lru::LruCache;
use parking_lot::Mutex;

use super::{
    Claim, Claimed, Done, Execution, Filter, Ledger, LedgerError, NewExecution, Outcome, Record, Recoverable, State,
};

/// Bytes that an entry costs beside its texts.
const ENTRY_OVERHEAD: usize = 256;

/// A ledger with a read cache of what can no longer change.
pub struct Cached<L> {
    ledger: L,
    finished: Mutex<Finished>,
}

struct Finished {
    max_bytes: usize,
    bytes: usize,
    entries: LruCache<(Arc<str>, String), Arc<Execution>>,
}

impl<L> Cached<L> {
    /// Room for `max_bytes` of answers.
    pub fn new(ledger: L, max_bytes: usize) -> Self {
        Cached { ledger, finished: Mutex::new(Finished { max_bytes, bytes: 0, entries: LruCache::unbounded() }) }
    }

    fn keep(&self, tenant: &Arc<str>, nonce: &str, execution: &Arc<Execution>) {
        if let State::Settled(Outcome::Done(_)) = execution.state {
            self.finished.lock().keep((tenant.clone(), nonce.to_owned()), execution.clone());
        }
    }
}

impl Finished {
    fn keep(&mut self, key: (Arc<str>, String), execution: Arc<Execution>) {
        self.bytes += size(&key, &execution);
        if let Some((key, replaced)) = self.entries.push(key, execution) {
            self.bytes -= size(&key, &replaced);
        }
        while self.bytes > self.max_bytes {
            let Some((key, oldest)) = self.entries.pop_lru() else { break };
            self.bytes -= size(&key, &oldest);
        }
    }
}

fn size(key: &(Arc<str>, String), execution: &Execution) -> usize {
    let result = match &execution.state {
        State::Settled(Outcome::Done(done)) => {
            done.result.len() + done.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
        }
        _ => 0,
    };
    ENTRY_OVERHEAD + key.1.len() + execution.action.len() + result
}

#[async_trait]
impl<L: Ledger> Ledger for Cached<L> {
    async fn look_up(&self, tenant: &str, nonce: &str) -> Result<Option<Arc<Execution>>, LedgerError> {
        let tenant: Arc<str> = tenant.into();
        let key = (tenant, nonce.to_owned());
        if let Some(hit) = self.finished.lock().entries.get(&key) {
            return Ok(Some(hit.clone()));
        }
        let found = self.ledger.look_up(&key.0, nonce).await?;
        if let Some(execution) = &found {
            self.keep(&key.0, nonce, execution);
        }
        Ok(found)
    }

    async fn claim(&self, new: NewExecution, result: Option<Done>) -> Result<Claimed, LedgerError> {
        let key = (new.tenant.clone(), new.nonce.clone());
        if let Some(hit) = self.finished.lock().entries.get(&key) {
            return Ok(Claimed::Known(hit.clone()));
        }
        let claimed = self.ledger.claim(new, result).await?;
        if let Claimed::New(_, execution) | Claimed::Known(execution) = &claimed {
            self.keep(&key.0, &key.1, execution);
        }
        Ok(claimed)
    }

    async fn record(&self, claim: &Claim, outcome: &Outcome) -> Result<Arc<Execution>, LedgerError> {
        self.ledger.record(claim, outcome).await
    }

    async fn resolve(&self, id: &str, outcome: &Outcome, by: &str) -> Result<Arc<Execution>, LedgerError> {
        self.ledger.resolve(id, outcome, by).await
    }

    async fn find(&self, id: &str) -> Result<Option<Record>, LedgerError> {
        self.ledger.find(id).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Record>, LedgerError> {
        self.ledger.list(filter).await
    }

    async fn recoverable(&self, after: i64, limit: usize) -> Result<Vec<Recoverable>, LedgerError> {
        self.ledger.recoverable(after, limit).await
    }

    async fn count_unknown(&self) -> Result<usize, LedgerError> {
        self.ledger.count_unknown().await
    }

    fn cached(&self, tenant: &Arc<str>, nonce: &str) -> Option<Arc<Execution>> {
        self.finished.lock().entries.get(&(tenant.clone(), nonce.to_owned())).cloned()
    }

    fn fence(&self) -> Option<DateTime<Utc>> {
        self.ledger.fence()
    }

    fn trouble(&self) -> Option<&'static str> {
        self.ledger.trouble()
    }

    async fn close(&self) {
        self.ledger.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Memory;

    fn finished(result: &str) -> Arc<Execution> {
        let done =
            Done { upstream_status: None, headers: Vec::new(), result: result.to_owned(), receipt: String::new() };
        Arc::new(Execution {
            id: String::new(),
            action: String::new(),
            action_hash: String::new(),
            state: State::Settled(Outcome::Done(done)),
        })
    }

    #[test]
    fn the_oldest_leaves_when_the_bytes_are_used_up() {
        let cache = Cached::new(Memory::new(0, None), 3 * ENTRY_OVERHEAD);
        let tenant: Arc<str> = "".into();
        for nonce in ["a", "b", "c"] {
            cache.keep(&tenant, nonce, &finished("12345"));
        }
        let mut finished_now = cache.finished.lock();
        assert!(finished_now.bytes <= 3 * ENTRY_OVERHEAD);
        assert!(!finished_now.entries.contains(&(tenant.clone(), "a".to_owned())));
        assert!(finished_now.entries.contains(&(tenant.clone(), "c".to_owned())));
        finished_now.keep((tenant.clone(), "c".to_owned()), finished("1"));
        while let Some((key, execution)) = finished_now.entries.pop_lru() {
            finished_now.bytes -= size(&key, &execution);
        }
        assert_eq!(finished_now.bytes, 0);
    }
}
