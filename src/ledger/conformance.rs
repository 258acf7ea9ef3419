//! One suite for every ledger: what the gate relies on.

use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use openexec_protocol::canonical::CanonicalText;
use openexec_protocol::request::action_hash;

use super::*;
use crate::config::ledger::{FencePolicy, LedgerConfig, SqliteConfig};
use crate::metrics::Metrics;

fn sqlite_config(directory: &Path) -> SqliteConfig {
    let path = directory.join("ledger.db");
    SqliteConfig {
        anchor: directory.join("ledger.db.anchor"),
        path,
        create: true,
        fence: FencePolicy::Auto,
        cache_bytes: 1 << 20,
        min_free_bytes: 0,
    }
}

fn start(config: &LedgerConfig) -> Arc<dyn Ledger> {
    let on_fatal: OnFatal = Arc::new(|error| panic!("{error}"));
    let metrics = Arc::new(Metrics::new());
    open(config).unwrap().start(false, TimeDelta::seconds(30), metrics, on_fatal).unwrap()
}

/// Runs a check on each kind of ledger, and on SQLite without its cache too.
async fn on_each<F: Future>(check: impl Fn(Arc<dyn Ledger>) -> F) {
    check(start(&LedgerConfig::Memory { max_bytes: 1 << 20, fence: FencePolicy::Auto })).await;
    for cache_bytes in [0, 1 << 20] {
        let directory = tempfile::tempdir().unwrap();
        let config = SqliteConfig { cache_bytes, ..sqlite_config(directory.path()) };
        let ledger = start(&LedgerConfig::Sqlite(config));
        check(ledger.clone()).await;
        ledger.close().await;
    }
}

fn new(id: &str, tenant: &str, nonce: &str, approval: Option<&str>) -> NewExecution {
    NewExecution {
        id: id.to_owned(),
        tenant: tenant.into(),
        nonce: nonce.to_owned(),
        action: "echo".to_owned(),
        action_hash: action_hash("echo", &CanonicalText::empty_object()),
        approval_id: approval.map(str::to_owned),
        dispatched: Some(Dispatched {
            payload: Some("{}".to_owned()),
            route: "POST /".to_owned(),
            policy: RecoveryPolicy::Probe,
        }),
        claimed_at: Utc::now(),
    }
}

fn done(result: &str) -> Done {
    Done {
        upstream_status: None,
        headers: Vec::new(),
        result: result.to_owned(),
        receipt: format!("receipt of {result}"),
    }
}

/// What an upstream said.
fn answered(result: &str) -> Done {
    let headers = vec![("x-request-id".to_owned(), "\"ä\"".to_owned())];
    Done { upstream_status: Some(202), headers, ..done(result) }
}

fn claimed(outcome: Result<Claimed, LedgerError>) -> (Claim, Arc<Execution>) {
    match outcome.unwrap() {
        Claimed::New(claim, execution) => (claim, execution),
        other => panic!("{other:?}"),
    }
}

fn known(outcome: Result<Claimed, LedgerError>) -> Arc<Execution> {
    match outcome.unwrap() {
        Claimed::Known(execution) => execution,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_nonce_is_claimed_once() {
    on_each(async |ledger| {
        assert_eq!(ledger.look_up("t", "n").await.unwrap(), None);
        let (_, first) = claimed(ledger.claim(new("1", "t", "n", None), Some(done("a"))).await);
        assert_eq!(known(ledger.claim(new("2", "t", "n", None), Some(done("b"))).await), first);
        assert_eq!(ledger.look_up("t", "n").await.unwrap(), Some(first));
    })
    .await;
}

#[tokio::test]
async fn tenants_do_not_meet() {
    on_each(async |ledger| {
        claimed(ledger.claim(new("1", "t", "n", Some("a")), Some(done("a"))).await);
        assert_eq!(ledger.look_up("u", "n").await.unwrap(), None);
        claimed(ledger.claim(new("2", "u", "n", Some("a")), Some(done("b"))).await);
        claimed(ledger.claim(new("3", "", "n", None), Some(done("c"))).await);
    })
    .await;
}

#[tokio::test]
async fn an_approval_is_consumed_once() {
    on_each(async |ledger| {
        let (_, first) = claimed(ledger.claim(new("1", "t", "n", Some("a")), None).await);
        let second = ledger.claim(new("2", "t", "m", Some("a")), None).await;
        assert!(matches!(second, Ok(Claimed::ApprovalUsed)), "{second:?}");
        assert_eq!(ledger.look_up("t", "m").await.unwrap(), None);
        // When both conflict, the nonce's answer wins.
        assert_eq!(known(ledger.claim(new("3", "t", "n", Some("a")), None).await), first);
    })
    .await;
}

#[tokio::test]
async fn a_claim_is_settled_once_and_by_its_owner() {
    on_each(async |ledger| {
        let outcomes = [Outcome::Done(answered("r")), Outcome::NotExecuted { status: 503 }, Outcome::Unknown];
        for (id, outcome) in ["1", "2", "3"].into_iter().zip(outcomes) {
            let (claim, intent) = claimed(ledger.claim(new(id, "t", id, None), None).await);
            assert_eq!(intent.state, State::Intent);
            let forged = Claim { token: claim.token.wrapping_add(1), ..claim.again() };
            assert_eq!(ledger.record(&forged, &outcome).await, Err(LedgerError::NotOurs));
            let settled = ledger.record(&claim, &outcome).await.unwrap();
            assert_eq!(settled.state, State::Settled(outcome.clone()));
            assert_eq!(ledger.look_up("t", id).await.unwrap(), Some(settled));
            assert_eq!(ledger.record(&claim, &Outcome::Unknown).await, Err(LedgerError::NotOurs));
        }
    })
    .await;
}

#[tokio::test]
async fn an_unknown_outcome_is_settled_once_by_whoever_knows() {
    on_each(async |ledger| {
        let mut claims = Vec::new();
        for id in ["1", "2", "3", "4"] {
            claims.push(claimed(ledger.claim(new(id, "t", id, None), None).await).0);
        }
        let resolve = async |id: &str, outcome| ledger.resolve(id, &outcome, "operator: ada").await;
        assert_eq!(resolve("1", Outcome::Done(done("r"))).await, Err(LedgerError::NotOurs), "it runs");
        for claim in &claims[..3] {
            ledger.record(claim, &Outcome::Unknown).await.unwrap();
        }
        let recoverable = async |after, limit| ledger.recoverable(after, limit).await.unwrap();
        let ids = |rows: Vec<Recoverable>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
        assert_eq!(ids(recoverable(0, 10).await), ["1", "2", "3"]);
        let first = recoverable(0, 1).await[0].seq;
        assert_eq!(ids(recoverable(first, 1).await), ["2"]);
        assert_eq!(ledger.count_unknown().await.unwrap(), 3);
        assert_eq!(resolve("1", Outcome::Unknown).await, Err(LedgerError::NotOurs), "that is no news");
        for (id, outcome) in [("1", Outcome::Done(answered("r"))), ("2", Outcome::NotExecuted { status: 409 })] {
            let settled = resolve(id, outcome.clone()).await.unwrap();
            assert_eq!(settled.state, State::Settled(outcome));
            assert_eq!(ledger.look_up("t", id).await.unwrap(), Some(settled));
            assert_eq!(resolve(id, Outcome::Done(done("other"))).await, Err(LedgerError::NotOurs));
        }
        // The execution's own late answer counts too; after an operator's it does not.
        assert_eq!(ledger.record(&claims[0], &Outcome::Done(done("late"))).await, Err(LedgerError::NotOurs));
        ledger.record(&claims[2], &Outcome::Done(done("late"))).await.unwrap();
        assert_eq!(ids(recoverable(0, 10).await), Vec::<String>::new());
        assert_eq!(ledger.count_unknown().await.unwrap(), 0);
        assert_eq!(resolve("nobody", Outcome::NotExecuted { status: 409 }).await, Err(LedgerError::NotOurs));
    })
    .await;
}

#[tokio::test]
async fn operators_see_everything() {
    on_each(async |ledger| {
        claimed(
            ledger.claim(NewExecution { dispatched: None, ..new("1", "t", "a", Some("x")) }, Some(done("r"))).await,
        );
        let (claim, _) = claimed(ledger.claim(new("2", "u", "b", None), None).await);
        ledger.record(&claim, &Outcome::Unknown).await.unwrap();
        claimed(ledger.claim(new("3", "t", "c", None), None).await);
        let list = async |state, before: Option<&str>, limit| {
            let filter = Filter { state, before: before.map(str::to_owned), limit };
            let found = ledger.list(&filter).await.unwrap();
            found.into_iter().map(|record| record.execution.id).collect::<Vec<_>>()
        };
        assert_eq!(list(None, None, 10).await, ["3", "2", "1"]);
        assert_eq!(list(None, Some("3"), 1).await, ["2"]);
        assert_eq!(list(Some("DONE"), None, 10).await, ["1"]);
        assert_eq!(list(Some("UNKNOWN"), None, 10).await, ["2"]);
        assert_eq!(list(Some("INTENT"), Some("3"), 10).await, Vec::<String>::new());
        let found = ledger.find("2").await.unwrap().unwrap();
        assert_eq!(found.dispatched, new("2", "u", "b", None).dispatched, "kept for whoever finds out");
        assert_eq!((found.tenant.as_str(), found.nonce.as_str(), found.settled_by.as_deref()), ("u", "b", None));
        ledger.resolve("2", &Outcome::Done(answered("r")), "operator: ada").await.unwrap();
        let found = ledger.find("2").await.unwrap().unwrap();
        assert_eq!(found.settled_by.as_deref(), Some("operator: ada"));
        assert_eq!(found.execution.state, State::Settled(Outcome::Done(answered("r"))));
        let dispatched = found.dispatched.unwrap();
        assert_eq!((dispatched.payload, dispatched.policy), (None, RecoveryPolicy::Probe), "no longer needed");
        let done = ledger.find("1").await.unwrap().unwrap();
        assert_eq!((done.approval_id.as_deref(), done.dispatched), (Some("x"), None));
        assert!(done.settled_at.is_some() && ledger.find("4").await.unwrap().is_none());
    })
    .await;
}

#[tokio::test]
async fn of_many_at_once_one_wins() {
    on_each(async |ledger| {
        let mut tasks = Vec::new();
        for at in 0..64 {
            let ledger = ledger.clone();
            // Half of them want the same nonce, half the same approval.
            let nonce = if at % 2 == 0 { "n".to_owned() } else { format!("n{at}") };
            let new = new(&at.to_string(), "t", &nonce, Some("a"));
            tasks.push(tokio::spawn(async move { ledger.claim(new, Some(done("r"))).await }));
        }
        let mut winners = 0;
        for task in tasks {
            winners += usize::from(matches!(task.await.unwrap().unwrap(), Claimed::New(..)));
        }
        assert_eq!(winners, 1);
    })
    .await;
}

#[tokio::test]
async fn nothing_is_stored_after_the_close() {
    on_each(async |ledger| {
        let (claim, _) = claimed(ledger.claim(new("1", "t", "n", None), None).await);
        ledger.close().await;
        assert_eq!(ledger.claim(new("2", "t", "m", None), None).await.unwrap_err(), LedgerError::Closed);
        assert_eq!(ledger.record(&claim, &Outcome::Unknown).await, Err(LedgerError::Closed));
    })
    .await;
}

#[tokio::test]
async fn a_full_memory_says_so() {
    let ledger = start(&LedgerConfig::Memory { max_bytes: 1_000, fence: FencePolicy::Auto });
    let mut stored = 0;
    while let Ok(Claimed::New(..)) = ledger.claim(new(&stored.to_string(), "t", &stored.to_string(), None), None).await
    {
        stored += 1;
    }
    assert_eq!(stored, 3);
    assert_eq!(ledger.claim(new("x", "t", "x", None), None).await.unwrap_err(), LedgerError::Full);
    assert!(ledger.look_up("t", "0").await.unwrap().is_some());
}

#[tokio::test]
async fn a_restart_keeps_everything_and_settles_what_was_left() {
    let directory = tempfile::tempdir().unwrap();
    let config = LedgerConfig::Sqlite(sqlite_config(directory.path()));
    let ledger = start(&config);
    let (_, first) = claimed(ledger.claim(new("1", "t", "n", Some("a")), Some(done("r"))).await);
    claimed(ledger.claim(new("2", "t", "m", None), None).await);
    ledger.close().await;
    drop(ledger);
    let ledger = start(&config);
    assert_eq!(ledger.look_up("t", "n").await.unwrap(), Some(first));
    let left = ledger.look_up("t", "m").await.unwrap().unwrap();
    assert_eq!(left.state, State::Settled(Outcome::Unknown));
    assert!(matches!(ledger.claim(new("3", "t", "o", Some("a")), None).await, Ok(Claimed::ApprovalUsed)));
    assert_eq!(ledger.fence(), None);
    ledger.close().await;
}

/// Copies of the file at two times, and what a start makes of each with which anchor.
#[tokio::test]
async fn a_ledger_that_was_rolled_back_is_fenced() {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = sqlite_config(directory.path());
    let config = LedgerConfig::Sqlite(sqlite.clone());
    let run = async |nonce: &str| {
        let ledger = start(&config);
        let fence = ledger.fence();
        claimed(ledger.claim(new(nonce, "t", nonce, None), Some(done("r"))).await);
        ledger.close().await;
        fence
    };
    assert_eq!(run("1").await, None);
    let backup = std::fs::read(&sqlite.path).unwrap();
    assert_eq!(run("2").await, None);
    std::fs::write(&sqlite.path, &backup).unwrap();
    let before = Utc::now();
    let fence = run("3").await.expect("the anchor is ahead");
    assert!(fence >= before + TimeDelta::seconds(30));
    assert_eq!(run("4").await, Some(fence), "stored, and raised no further");
    let mut last = fence;
    let mut raised = async |nonce: &str| {
        let fence: DateTime<Utc> = run(nonce).await.expect("a fence never goes");
        std::mem::replace(&mut last, fence) < fence
    };
    std::fs::remove_file(&sqlite.anchor).unwrap();
    assert!(raised("5").await, "the anchor is missing");
    std::fs::write(&sqlite.anchor, "rubbish").unwrap();
    assert!(raised("6").await, "the anchor is damaged");
    std::fs::remove_file(&sqlite.path).unwrap();
    assert!(raised("7").await, "the anchor is of another ledger");
}
