//! Finished answers, so that a retry does not ask the disk. Bounded in bytes; truth stays in the ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use lru::LruCache;
use parking_lot::Mutex;

use super::{
    Claim, Claimed, DenialFilter, Denied, Done, Execution, Filter, Forgotten, Horizon, Ledger, LedgerError,
    NewExecution, Outcome, Record, Recoverable, State, Turn,
};

/// Other replicas forget results, too: one that is not asked for its truth for so long is asked again.
const SHARED_AGE: Duration = Duration::from_secs(600);
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
    /// With when they were put here.
    entries: LruCache<(Arc<str>, String), (Arc<Execution>, Instant)>,
    /// For how long what others may have forgotten is given.
    max_age: Option<Duration>,
    /// How often something was forgotten: what was looked up before that may be forgotten by now.
    forgotten: u64,
}

impl<L: Ledger> Cached<L> {
    /// Room for `max_bytes` of answers.
    pub fn new(ledger: L, max_bytes: usize) -> Self {
        let max_age = ledger.is_shared().then_some(SHARED_AGE);
        let entries = LruCache::unbounded();
        Cached { ledger, finished: Mutex::new(Finished { max_bytes, bytes: 0, entries, max_age, forgotten: 0 }) }
    }

    /// What was true when so much had been forgotten.
    fn keep(&self, tenant: &Arc<str>, nonce: &str, execution: &Arc<Execution>, forgotten: u64) {
        if let State::Settled(Outcome::Done(_)) = execution.state {
            let mut finished = self.finished.lock();
            if finished.forgotten == forgotten {
                finished.keep((tenant.clone(), nonce.to_owned()), execution.clone());
            }
        }
    }

    /// The answer, or how much had been forgotten when there was none.
    fn hit(&self, key: &(Arc<str>, String)) -> Result<Arc<Execution>, u64> {
        let mut finished = self.finished.lock();
        finished.get(key).ok_or(finished.forgotten)
    }
}

impl Finished {
    fn get(&mut self, key: &(Arc<str>, String)) -> Option<Arc<Execution>> {
        let (execution, since) = self.entries.get(key)?;
        if self.max_age.is_some_and(|most| since.elapsed() > most) {
            self.forget(key);
            return None;
        }
        Some(execution.clone())
    }

    fn keep(&mut self, key: (Arc<str>, String), execution: Arc<Execution>) {
        self.bytes += size(&key, &execution);
        if let Some((key, (replaced, _))) = self.entries.push(key, (execution, Instant::now())) {
            self.bytes -= size(&key, &replaced);
        }
        while self.bytes > self.max_bytes {
            let Some((key, (oldest, _))) = self.entries.pop_lru() else { break };
            self.bytes -= size(&key, &oldest);
        }
    }

    fn forget(&mut self, key: &(Arc<str>, String)) {
        if let Some((dropped, _)) = self.entries.pop(key) {
            self.bytes -= size(key, &dropped);
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
        let forgotten = match self.hit(&key) {
            Ok(hit) => return Ok(Some(hit)),
            Err(forgotten) => forgotten,
        };
        let found = self.ledger.look_up(&key.0, nonce).await?;
        if let Some(execution) = &found {
            self.keep(&key.0, nonce, execution, forgotten);
        }
        Ok(found)
    }

    async fn claim(&self, new: NewExecution, result: Option<Done>) -> Result<Claimed, LedgerError> {
        let key = (new.tenant.clone(), new.nonce.clone());
        let forgotten = match self.hit(&key) {
            Ok(hit) => return Ok(Claimed::Known(hit)),
            Err(forgotten) => forgotten,
        };
        let mut claimed = self.ledger.claim(new, result).await?;
        if let Claimed::New(_, execution) | Claimed::Known(execution) = &claimed {
            self.keep(&key.0, &key.1, execution, forgotten);
        }
        if let Claimed::New(claim, _) = &mut claimed {
            claim.cached_as = Some(key);
        }
        Ok(claimed)
    }

    async fn record(&self, claim: &Claim, outcome: &Outcome) -> Result<Arc<Execution>, LedgerError> {
        let forgotten = self.finished.lock().forgotten;
        let execution = self.ledger.record(claim, outcome).await?;
        if let Some((tenant, nonce)) = &claim.cached_as {
            self.keep(tenant, nonce, &execution, forgotten);
        }
        Ok(execution)
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

    fn deny(&self, denied: Denied, kept: usize) {
        self.ledger.deny(denied, kept);
    }

    async fn denials(&self, filter: &DenialFilter) -> Result<Vec<(i64, Denied)>, LedgerError> {
        self.ledger.denials(filter).await
    }

    async fn retain(&self, horizon: &Horizon) -> Result<Forgotten, LedgerError> {
        let forgotten = self.ledger.retain(horizon).await?;
        let mut finished = self.finished.lock();
        finished.forgotten += u64::from(!forgotten.nonces.is_empty());
        for (tenant, nonce) in &forgotten.nonces {
            finished.forget(&(tenant.as_str().into(), nonce.clone()));
        }
        Ok(forgotten)
    }

    async fn take_turn(&self, id: &str) -> Result<Option<Turn>, LedgerError> {
        self.ledger.take_turn(id).await
    }

    async fn end_turn(&self, id: &str, turn: Turn) {
        self.ledger.end_turn(id, turn).await;
    }

    fn is_shared(&self) -> bool {
        self.ledger.is_shared()
    }

    async fn count_unknown(&self) -> Result<usize, LedgerError> {
        self.ledger.count_unknown().await
    }

    fn cached(&self, tenant: &Arc<str>, nonce: &str) -> Option<Arc<Execution>> {
        self.finished.lock().get(&(tenant.clone(), nonce.to_owned()))
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
            key_id: None,
            state: State::Settled(Outcome::Done(done)),
        })
    }

    #[test]
    fn what_was_looked_up_before_something_was_forgotten_is_not_kept() {
        let cache = Cached::new(Memory::new(0, None), 1 << 20);
        let key: (Arc<str>, String) = ("".into(), "a".to_owned());
        let before = cache.hit(&key).unwrap_err();
        cache.finished.lock().forgotten += 1;
        cache.keep(&key.0, &key.1, &finished("1"), before);
        let now = cache.hit(&key).unwrap_err();
        cache.keep(&key.0, &key.1, &finished("1"), now);
        assert!(cache.hit(&key).is_ok());
    }

    #[test]
    fn the_oldest_leaves_when_the_bytes_are_used_up() {
        let cache = Cached::new(Memory::new(0, None), 3 * ENTRY_OVERHEAD);
        let tenant: Arc<str> = "".into();
        for nonce in ["a", "b", "c"] {
            cache.keep(&tenant, nonce, &finished("12345"), 0);
        }
        let mut finished_now = cache.finished.lock();
        assert!(finished_now.bytes <= 3 * ENTRY_OVERHEAD);
        assert!(!finished_now.entries.contains(&(tenant.clone(), "a".to_owned())));
        assert!(finished_now.entries.contains(&(tenant.clone(), "c".to_owned())));
        finished_now.keep((tenant.clone(), "c".to_owned()), finished("1"));
        while let Some((key, (execution, _))) = finished_now.entries.pop_lru() {
            finished_now.bytes -= size(&key, &execution);
        }
        assert_eq!(finished_now.bytes, 0);
    }
}
