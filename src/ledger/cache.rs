//! Finished answers, so that a retry does not ask the disk. Bounded in bytes; truth stays in the ledger.
//!
//! What a service answered is kept at once: its retry would take a connection to the service before the ledger is
//! asked. What had no effects is kept when it is asked for again, which hardly any is: keeping all of it costs each
//! execution several microseconds, for a retry that is one claim in vain.

use std::hash::{BuildHasher, RandomState};
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
    /// By a hash of tenant and nonce, which nobody outside can aim at: of two with the same hash, one is here.
    entries: LruCache<u64, Kept>,
    hasher: RandomState,
    /// For how long what others may have forgotten is given.
    max_age: Option<Duration>,
    /// How often something was forgotten: what was looked up before that may be forgotten by now.
    forgotten: u64,
}

impl<L: Ledger> Cached<L> {
    /// Room for `max_bytes` of answers.
    pub fn new(ledger: L, max_bytes: usize) -> Self {
        let max_age = ledger.is_shared().then_some(SHARED_AGE);
        let (entries, hasher) = (LruCache::unbounded(), RandomState::new());
        Cached {
            ledger,
            finished: Mutex::new(Finished { max_bytes, bytes: 0, entries, hasher, max_age, forgotten: 0 }),
        }
    }

    /// What was true when so much had been forgotten.
    fn keep(&self, tenant: &str, nonce: &str, execution: &Execution, forgotten: u64) {
        let Some(kept) = Kept::of(tenant, nonce, execution) else { return };
        let mut finished = self.finished.lock();
        if finished.forgotten == forgotten {
            let left = finished.keep(kept);
            // Its texts are freed when others may go on.
            drop((finished, left));
        }
    }

    /// The answer, or how much had been forgotten when there was none.
    fn hit(&self, tenant: &str, nonce: &str) -> Result<Arc<Execution>, u64> {
        let kept = {
            let mut finished = self.finished.lock();
            finished.get(tenant, nonce).ok_or(finished.forgotten)?
        };
        // Here, since a result can be long, and everybody waits for the lock.
        Ok(Arc::new(kept.execution()))
    }
}

impl Finished {
    fn get(&mut self, tenant: &str, nonce: &str) -> Option<Kept> {
        let key = self.key(tenant, nonce);
        let kept = self.entries.get(&key).filter(|kept| kept.is_of(tenant, nonce))?;
        if self.max_age.is_some_and(|most| kept.since.elapsed() > most) {
            self.forget(tenant, nonce);
            return None;
        }
        Some(kept.clone())
    }

    /// What it took the place of.
    fn keep(&mut self, kept: Kept) -> Vec<Kept> {
        if kept.bytes() > self.max_bytes {
            return vec![kept];
        }
        let key = self.key(kept.text(TENANT), kept.text(NONCE));
        self.bytes += kept.bytes();
        let mut left: Vec<Kept> = self.entries.push(key, kept).map(|(_, replaced)| replaced).into_iter().collect();
        self.bytes -= left.iter().map(Kept::bytes).sum::<usize>();
        while self.bytes > self.max_bytes {
            let Some((_, oldest)) = self.entries.pop_lru() else { break };
            self.bytes -= oldest.bytes();
            left.push(oldest);
        }
        left
    }

    fn forget(&mut self, tenant: &str, nonce: &str) {
        let key = self.key(tenant, nonce);
        if self.entries.peek(&key).is_some_and(|kept| kept.is_of(tenant, nonce))
            && let Some(dropped) = self.entries.pop(&key)
        {
            self.bytes -= dropped.bytes();
        }
    }

    fn key(&self, tenant: &str, nonce: &str) -> u64 {
        self.hasher.hash_one((tenant, nonce))
    }
}

/// A finished execution, all its texts in one piece: most are never asked for again, and each piece of memory that stays
/// behind costs the thread that frees it later a look at memory that nobody has used for long.
#[derive(Clone)]
struct Kept {
    /// One behind the other.
    texts: Arc<str>,
    /// Where each ends.
    ends: [usize; 7],
    has_key_id: bool,
    upstream_status: Option<u16>,
    headers: Vec<(String, String)>,
    since: Instant,
}

const TENANT: usize = 0;
const NONCE: usize = 1;
const ID: usize = 2;
const ACTION: usize = 3;
const ACTION_HASH: usize = 4;
const KEY_ID: usize = 5;
const RECEIPT: usize = 6;

impl Kept {
    /// `None`: it can change, and is not for a cache.
    fn of(tenant: &str, nonce: &str, execution: &Execution) -> Option<Self> {
        let State::Settled(Outcome::Done(done)) = &execution.state else { return None };
        let Execution { id, action, action_hash, key_id, .. } = execution;
        let texts = [tenant, nonce, id, action, action_hash, key_id.as_deref().unwrap_or_default(), &done.receipt];
        let mut end = 0;
        let ends = texts.map(|text| {
            end += text.len();
            end
        });
        let mut all = String::with_capacity(end + done.result.len());
        all.extend(texts);
        all.push_str(&done.result);
        Some(Kept {
            texts: all.into(),
            ends,
            has_key_id: key_id.is_some(),
            upstream_status: done.upstream_status,
            headers: done.headers.clone(),
            since: Instant::now(),
        })
    }

    fn execution(&self) -> Execution {
        let text = |which| self.text(which).to_owned();
        let done = Done {
            upstream_status: self.upstream_status,
            headers: self.headers.clone(),
            result: self.texts[self.ends[RECEIPT]..].to_owned(),
            receipt: text(RECEIPT),
        };
        Execution {
            id: text(ID),
            action: text(ACTION),
            action_hash: text(ACTION_HASH),
            key_id: self.has_key_id.then(|| text(KEY_ID)),
            state: State::Settled(Outcome::Done(done)),
        }
    }

    fn is_of(&self, tenant: &str, nonce: &str) -> bool {
        self.text(TENANT) == tenant && self.text(NONCE) == nonce
    }

    fn text(&self, which: usize) -> &str {
        let start = if which == 0 { 0 } else { self.ends[which - 1] };
        &self.texts[start..self.ends[which]]
    }

    fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        ENTRY_OVERHEAD + self.texts.len() + headers.sum::<usize>()
    }
}

#[async_trait]
impl<L: Ledger> Ledger for Cached<L> {
    async fn look_up(&self, tenant: &str, nonce: &str) -> Result<Option<Arc<Execution>>, LedgerError> {
        let forgotten = match self.hit(tenant, nonce) {
            Ok(hit) => return Ok(Some(hit)),
            Err(forgotten) => forgotten,
        };
        let found = self.ledger.look_up(tenant, nonce).await?;
        if let Some(execution) = &found {
            self.keep(tenant, nonce, execution, forgotten);
        }
        Ok(found)
    }

    async fn claim(&self, new: NewExecution, result: Option<Done>) -> Result<Claimed, LedgerError> {
        let key = (new.tenant.clone(), new.nonce.clone());
        let forgotten = match self.hit(&key.0, &key.1) {
            Ok(hit) => return Ok(Claimed::Known(hit)),
            Err(forgotten) => forgotten,
        };
        let mut claimed = self.ledger.claim(new, result).await?;
        match &mut claimed {
            Claimed::New(claim, _) => claim.cached_as = Some(key),
            Claimed::Known(execution) => self.keep(&key.0, &key.1, execution, forgotten),
            Claimed::ApprovalUsed | Claimed::BehindFence => {}
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
            finished.forget(tenant, nonce);
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

    fn cached(&self, tenant: &str, nonce: &str) -> Option<Arc<Execution>> {
        self.hit(tenant, nonce).ok()
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
    use crate::ledger::{Memory, conformance::new};

    fn finished(result: &str) -> Execution {
        let done =
            Done { upstream_status: None, headers: Vec::new(), result: result.to_owned(), receipt: String::new() };
        Execution {
            id: String::new(),
            action: String::new(),
            action_hash: String::new(),
            key_id: None,
            state: State::Settled(Outcome::Done(done)),
        }
    }

    #[test]
    fn it_comes_out_as_it_went_in() {
        let cache = Cached::new(Memory::new(0, None), 1 << 20);
        let done = Done {
            upstream_status: Some(201),
            headers: vec![("Location".to_owned(), "/1".to_owned())],
            result: r#"{"é": 1}"#.to_owned(),
            receipt: "r".to_owned(),
        };
        for key_id in [None, Some(String::new()), Some("k".to_owned())] {
            let execution = Execution {
                id: "id".to_owned(),
                action: "echo".to_owned(),
                action_hash: "hash".to_owned(),
                key_id,
                state: State::Settled(Outcome::Done(done.clone())),
            };
            cache.keep("tenant", "nonce", &execution, 0);
            assert_eq!(*cache.hit("tenant", "nonce").unwrap(), execution);
        }
        // The same texts, divided otherwise.
        assert!(cache.hit("tenantn", "once").is_err());
        let unsettled = Execution { state: State::Intent, ..finished("1") };
        cache.keep("tenant", "other", &unsettled, 0);
        assert!(cache.hit("tenant", "other").is_err());
    }

    #[test]
    fn of_two_with_the_same_hash_neither_is_taken_for_the_other() {
        let cache = Cached::new(Memory::new(0, None), 1 << 20);
        let mut finished_now = cache.finished.lock();
        let key = finished_now.key("", "a");
        finished_now.entries.push(key, Kept::of("", "b", &finished("1")).unwrap());
        assert!(finished_now.get("", "a").is_none());
        finished_now.forget("", "a");
        assert!(finished_now.entries.contains(&key));
    }

    #[test]
    fn what_was_looked_up_before_something_was_forgotten_is_not_kept() {
        let cache = Cached::new(Memory::new(0, None), 1 << 20);
        let before = cache.hit("", "a").unwrap_err();
        cache.finished.lock().forgotten += 1;
        cache.keep("", "a", &finished("1"), before);
        let now = cache.hit("", "a").unwrap_err();
        cache.keep("", "a", &finished("1"), now);
        assert!(cache.hit("", "a").is_ok());
    }

    #[test]
    fn the_oldest_leaves_when_the_bytes_are_used_up() {
        let cache = Cached::new(Memory::new(0, None), 3 * ENTRY_OVERHEAD);
        for nonce in ["a", "b", "c"] {
            cache.keep("", nonce, &finished("12345"), 0);
        }
        // More than there is room for in all: nobody leaves for it.
        cache.keep("", "d", &finished(&"1".repeat(3 * ENTRY_OVERHEAD)), 0);
        let mut finished_now = cache.finished.lock();
        assert!(finished_now.bytes <= 3 * ENTRY_OVERHEAD);
        assert!(finished_now.get("", "a").is_none() && finished_now.get("", "d").is_none());
        assert!(finished_now.get("", "c").is_some());
        finished_now.keep(Kept::of("", "c", &finished("1")).unwrap());
        finished_now.forget("", "b");
        finished_now.forget("", "c");
        assert_eq!((finished_now.bytes, finished_now.entries.len()), (0, 0));
    }

    #[tokio::test]
    async fn what_had_no_effects_is_kept_when_it_is_asked_for_again() {
        let cache = Cached::new(Memory::new(1 << 20, None), 1 << 20);
        let done = Done { upstream_status: None, headers: Vec::new(), result: "1".to_owned(), receipt: String::new() };
        let claimed = cache.claim(new("pure", "tenant", "pure", None), Some(done.clone())).await;
        assert!(matches!(claimed, Ok(Claimed::New(..))) && cache.cached("tenant", "pure").is_none());
        let claimed = cache.claim(new("pure", "tenant", "pure", None), Some(done.clone())).await;
        assert!(matches!(claimed, Ok(Claimed::Known(_))) && cache.cached("tenant", "pure").is_some());
        let Ok(Claimed::New(claim, _)) = cache.claim(new("effect", "tenant", "effect", None), None).await else {
            panic!("it is new")
        };
        assert!(cache.cached("tenant", "effect").is_none());
        cache.record(&claim, &Outcome::Done(done)).await.unwrap();
        assert!(cache.cached("tenant", "effect").is_some());
    }
}
