//! One suite for every ledger: what the gate relies on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use openexec_protocol::canonical::CanonicalText;
use openexec_protocol::request::action_hash;

use super::postgres::Postgres;
use super::*;
use crate::config::Config;
use crate::config::ledger::{FencePolicy, LedgerConfig, PostgresConfig, SqliteConfig};
use crate::metrics::Metrics;

#[path = "../../tests/it/database.rs"]
mod database;

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

fn postgres_config(url: &str) -> PostgresConfig {
    let environment: HashMap<&str, String> = HashMap::from([("OPENEXEC_DB_URL", url.to_owned())]);
    match Config::load(None, &environment).unwrap().ledger {
        LedgerConfig::Postgres(postgres) => PostgresConfig { lease: Duration::from_secs(3), ..*postgres },
        other => panic!("{other:?}"),
    }
}

/// A replica of its own, without the cache.
async fn postgres(config: &PostgresConfig) -> Postgres {
    let opened = postgres::open(config).await.unwrap();
    opened.start(false, TimeDelta::seconds(30), Arc::new(Metrics::new())).await
}

/// Runs a check on each kind of ledger, and on SQLite without its cache too.
async fn on_each<F: Future>(check: impl Fn(Arc<dyn Ledger>) -> F) {
    let ledger = Arc::new(postgres(&postgres_config(&database::Postgres::shared().new_database())).await);
    check(ledger.clone()).await;
    ledger.close().await;
    check(start(&LedgerConfig::Memory { max_bytes: 1 << 20, fence: FencePolicy::Auto })).await;
    for cache_bytes in [0, 1 << 20] {
        let directory = tempfile::tempdir().unwrap();
        let config = SqliteConfig { cache_bytes, ..sqlite_config(directory.path()) };
        let ledger = start(&LedgerConfig::Sqlite(config));
        check(ledger.clone()).await;
        ledger.close().await;
    }
}

pub(super) fn new(id: &str, tenant: &str, nonce: &str, approval: Option<&str>) -> NewExecution {
    NewExecution {
        id: id.to_owned(),
        tenant: tenant.into(),
        nonce: nonce.to_owned(),
        action: "echo".to_owned(),
        action_hash: action_hash("echo", &CanonicalText::empty_object()),
        approval_id: approval.map(str::to_owned),
        issued_at: approval.map(|_| Utc::now()),
        key_id: approval.map(|_| "key-1".to_owned()),
        caller: approval.map(|_| "planner".into()),
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
            let forged = Claim::new(claim.intent.clone(), claim.seq, claim.token.wrapping_add(1));
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
        for state in [None, Some("DONE"), Some("UNKNOWN"), Some("NOT_EXECUTED")] {
            assert_eq!(list(state, Some("forgotten"), 10).await, [""; 0], "the newest are not behind it");
        }
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
        assert_eq!((done.execution.key_id.as_deref(), done.caller.as_deref()), (Some("key-1"), Some("planner")));
        assert_eq!(found.execution.key_id, None);
        assert!(done.settled_at.is_some() && ledger.find("4").await.unwrap().is_none());
    })
    .await;
}

fn denied(tenant: &str, nonce: u32) -> Denied {
    Denied {
        denied_at: DateTime::UNIX_EPOCH + TimeDelta::seconds(nonce.into()),
        tenant: tenant.into(),
        reason: "approval_expired".to_owned(),
        action: "echo".to_owned(),
        action_hash: "h".to_owned(),
        nonce: nonce.to_string(),
        approval_id: (nonce > 1).then(|| "a".to_owned()),
        key_id: (nonce > 1).then(|| "k".to_owned()),
        caller: (nonce > 1).then(|| "c".into()),
    }
}

#[tokio::test]
async fn the_newest_denials_of_each_tenant_are_remembered() {
    on_each(async |ledger| {
        for nonce in 1..=6 {
            ledger.deny(denied("t", nonce), 4);
        }
        ledger.deny(denied("u", 7), 4);
        // What is claimed later is stored later; of a database, all of it a little later, and forgotten later still.
        claimed(ledger.claim(new("1", "t", "n", None), None).await);
        let every = DenialFilter { limit: 10, ..DenialFilter::default() };
        for _ in 0..500 {
            if ledger.denials(&every).await.unwrap().len() == 5 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let list = async |tenant: Option<&str>, before, limit| {
            let filter = DenialFilter { tenant: tenant.map(str::to_owned), before, limit };
            ledger.denials(&filter).await.unwrap()
        };
        let all = list(None, None, 10).await;
        let kept: Vec<_> = all.iter().map(|(_, denied)| denied.clone()).collect();
        let expected = [("u", 7), ("t", 6), ("t", 5), ("t", 4), ("t", 3)];
        assert_eq!(kept, expected.map(|(tenant, nonce)| denied(tenant, nonce)));
        assert_eq!(list(Some("t"), None, 2).await, all[1..3]);
        assert_eq!(list(None, Some(all[1].0), 2).await, all[2..4]);
        assert_eq!(list(Some("t"), Some(all[3].0), 9).await, all[4..]);
        ledger.close().await;
        ledger.deny(denied("t", 8), 4);
    })
    .await;
}

/// As if it had been claimed, and at once executed, an hour ago.
fn old(nonce: &str, approval: Option<&str>) -> NewExecution {
    NewExecution { claimed_at: Utc::now() - TimeDelta::hours(1), ..new(nonce, "t", nonce, approval) }
}

fn older_than_a_minute(executions: bool) -> Horizon {
    let before = Utc::now() - TimeDelta::minutes(1);
    Horizon { results: Some(before), executions: executions.then_some(before), skew: TimeDelta::seconds(30) }
}

#[tokio::test]
async fn old_results_are_forgotten_and_nothing_else() {
    on_each(async |ledger| {
        claimed(ledger.claim(old("done", Some("a")), Some(done("r"))).await);
        let (lost, _) = claimed(ledger.claim(old("lost", None), None).await);
        ledger.record(&lost, &Outcome::Unknown).await.unwrap();
        claimed(ledger.claim(old("running", None), None).await);
        let (_, young) = claimed(ledger.claim(new("young", "t", "young", None), Some(done("r"))).await);
        // Asked for, so that a cache has it, too.
        assert!(ledger.look_up("t", "done").await.unwrap().is_some());
        let forgotten = ledger.retain(&older_than_a_minute(false)).await.unwrap();
        let nonces = vec![("t".to_owned(), "done".to_owned())];
        assert_eq!(forgotten, Forgotten { results: 1, nonces, ..Forgotten::default() });
        let expired = State::Expired { receipt: "receipt of r".to_owned() };
        assert_eq!(ledger.look_up("t", "done").await.unwrap().unwrap().state, expired);
        assert_eq!(known(ledger.claim(new("x", "t", "done", None), Some(done("r"))).await).state, expired);
        assert_eq!(ledger.find("done").await.unwrap().unwrap().execution.state, expired);
        let again = ledger.claim(new("y", "t", "another", Some("a")), None).await;
        assert!(matches!(again, Ok(Claimed::ApprovalUsed)), "its approval stays used");
        assert_eq!(ledger.look_up("t", "running").await.unwrap().unwrap().state, State::Intent);
        assert_eq!(ledger.look_up("t", "young").await.unwrap(), Some(young));
        // Claimed long ago, and settled just now: kept from now on.
        let late = ledger.record(&lost, &Outcome::Done(answered("late"))).await.unwrap();
        assert_eq!(ledger.retain(&older_than_a_minute(false)).await.unwrap(), Forgotten::default());
        assert_eq!(ledger.look_up("t", "lost").await.unwrap(), Some(late));
        // Until it is as old as the others were, though all around it have been looked at.
        let soon = Horizon { results: Some(Utc::now() + TimeDelta::minutes(1)), ..older_than_a_minute(false) };
        let mut forgotten = ledger.retain(&soon).await.unwrap();
        forgotten.nonces.sort();
        let nonces = ["lost", "young"].map(|nonce| ("t".to_owned(), nonce.to_owned())).into();
        assert_eq!(forgotten, Forgotten { results: 2, nonces, ..Forgotten::default() });
        let nothing = Horizon { results: None, executions: None, skew: TimeDelta::zero() };
        assert_eq!(ledger.retain(&nothing).await.unwrap(), Forgotten::default());
        assert_eq!(ledger.fence(), None, "results need no fence");
    })
    .await;
}

#[tokio::test]
async fn old_executions_are_forgotten_behind_a_fence() {
    let directory = tempfile::tempdir().unwrap();
    let config = LedgerConfig::Sqlite(sqlite_config(directory.path()));
    let ledger = start(&config);
    for nonce in ["1", "2"] {
        claimed(ledger.claim(old(nonce, Some(nonce)), Some(done("r"))).await);
    }
    claimed(ledger.claim(old("running", None), None).await);
    let (_, newest) = claimed(ledger.claim(old("3", None), Some(done("r"))).await);
    let horizon = Horizon { results: None, ..older_than_a_minute(true) };
    // Asked for, so that the cache has it, too.
    assert!(ledger.look_up("t", "1").await.unwrap().is_some());
    let forgotten = ledger.retain(&horizon).await.unwrap();
    assert_eq!((forgotten.results, forgotten.executions, forgotten.more), (0, 2, false));
    assert_eq!(ledger.retain(&horizon).await.unwrap(), Forgotten::default());
    let fence = ledger.fence().unwrap();
    assert!(fence >= horizon.executions.unwrap() + horizon.skew);
    assert_eq!(ledger.look_up("t", "1").await.unwrap(), None);
    assert_eq!(ledger.look_up("t", "3").await.unwrap(), Some(newest));
    assert_eq!(ledger.look_up("t", "running").await.unwrap().unwrap().state, State::Intent);
    claimed(ledger.claim(new("4", "t", "1", Some("1")), Some(done("r"))).await);
    ledger.close().await;
    drop(ledger);
    let ledger = start(&config);
    assert_eq!(ledger.fence(), Some(fence), "stored, and raised no further");
    ledger.close().await;
}

/// A claim may have begun before the fence was raised, so what lies behind it is forgotten later.
#[tokio::test]
async fn a_database_forgets_executions_behind_a_fence_that_has_settled() {
    let url = database::Postgres::shared().new_database();
    let sql = |sql: &str| database::Postgres::shared().sql_on(&url, sql);
    let ledger = postgres(&postgres_config(&url)).await;
    // More than one statement forgets, with results and without, and unknown ones in front of them.
    for nonce in 0..140 {
        let (claim, _) = claimed(ledger.claim(old(&format!("u{nonce}"), None), None).await);
        ledger.record(&claim, &Outcome::Unknown).await.unwrap();
    }
    for nonce in 0..130 {
        claimed(ledger.claim(old(&format!("n{nonce}"), Some(&format!("a{nonce}"))), Some(done("r"))).await);
    }
    let (_, newest) = claimed(ledger.claim(old("newest", None), Some(done("r"))).await);
    sql("UPDATE openexec_executions SET settled_at = claimed_at");
    let horizon = Horizon { results: None, ..older_than_a_minute(true) };
    assert_eq!(ledger.retain(&horizon).await.unwrap().executions, 0, "the fence is raised first");
    let fence = ledger.fence().unwrap();
    assert!(fence >= horizon.executions.unwrap() + horizon.skew);
    assert_eq!(ledger.retain(&horizon).await.unwrap().executions, 0, "not yet");
    let settled = "UPDATE openexec_meta SET fence_raised_at = fence_raised_at - interval '61 seconds'";
    sql(settled);
    let first = ledger.retain(&horizon).await.unwrap();
    assert_eq!((first.executions, first.more, first.nonces.len()), (128, true, 128));
    let second = ledger.retain(&horizon).await.unwrap();
    assert_eq!((second.executions, second.more), (2, false));
    assert_eq!(ledger.look_up("t", "n0").await.unwrap(), None);
    assert_eq!(ledger.look_up("t", "newest").await.unwrap(), Some(newest));
    assert_eq!(ledger.count_unknown().await.unwrap(), 140);
    let issued_at = Some(Utc::now() - TimeDelta::hours(1));
    let again = ledger.claim(NewExecution { issued_at, ..new("x", "t", "other", Some("a0")) }, None).await;
    assert!(matches!(again, Ok(Claimed::BehindFence)), "{again:?}");
    ledger.close().await;
    let ledger = postgres(&postgres_config(&url)).await;
    assert_eq!(ledger.fence(), Some(fence));
    ledger.close().await;
}

/// More of them than one commit forgets, in front of everything else.
#[tokio::test]
async fn unknown_outcomes_are_not_in_the_way_of_what_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = start(&LedgerConfig::Sqlite(sqlite_config(directory.path())));
    for nonce in 0..150 {
        let (claim, _) = claimed(ledger.claim(old(&format!("u{nonce}"), None), None).await);
        ledger.record(&claim, &Outcome::Unknown).await.unwrap();
    }
    rusqlite::Connection::open(directory.path().join("ledger.db"))
        .unwrap()
        .execute("UPDATE executions SET settled_at = claimed_at", [])
        .unwrap();
    let horizon = Horizon { results: None, ..older_than_a_minute(true) };
    assert_eq!(ledger.retain(&horizon).await.unwrap(), Forgotten::default());
    assert_eq!(ledger.fence(), None, "nothing is forgotten, so nothing is fenced");
    for nonce in ["1", "2"] {
        claimed(ledger.claim(old(nonce, None), Some(done("r"))).await);
    }
    let forgotten = ledger.retain(&horizon).await.unwrap();
    assert_eq!((forgotten.executions, forgotten.more), (1, false), "all but the newest");
    assert_eq!(ledger.count_unknown().await.unwrap(), 150);
    ledger.close().await;
}

/// Whoever passed the fence before it was raised does not pass the claim behind it.
#[tokio::test]
async fn a_claim_is_compared_with_the_fence_once_more() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = start(&LedgerConfig::Sqlite(sqlite_config(directory.path())));
    let issued_at = Utc::now() - TimeDelta::hours(1);
    let with = |nonce: &str, approval: &str| NewExecution { issued_at: Some(issued_at), ..old(nonce, Some(approval)) };
    claimed(ledger.claim(with("1", "a"), Some(done("r"))).await);
    let (_, newest) = claimed(ledger.claim(with("2", "b"), Some(done("r"))).await);
    ledger.retain(&Horizon { results: None, ..older_than_a_minute(true) }).await.unwrap();
    let again = ledger.claim(with("3", "a"), Some(done("r"))).await;
    assert!(matches!(again, Ok(Claimed::BehindFence)), "{again:?}");
    assert_eq!(known(ledger.claim(with("2", "b"), None).await), newest, "a stored answer beats the refusal");
    let young = NewExecution { issued_at: Some(Utc::now()), ..with("4", "c") };
    claimed(ledger.claim(young, Some(done("r"))).await);
    ledger.close().await;
}

#[tokio::test]
async fn many_old_results_are_forgotten_in_several_commits() {
    let directory = tempfile::tempdir().unwrap();
    let url = database::Postgres::shared().new_database();
    let ledgers: [Arc<dyn Ledger>; 2] = [
        start(&LedgerConfig::Sqlite(sqlite_config(directory.path()))),
        Arc::new(postgres(&postgres_config(&url)).await),
    ];
    for ledger in ledgers {
        for nonce in 0..200 {
            claimed(ledger.claim(old(&nonce.to_string(), None), Some(done("r"))).await);
        }
        for nonce in 200..203 {
            claimed(ledger.claim(old(&nonce.to_string(), None), Some(done(&"r".repeat(3 << 20)))).await);
        }
        let mut commits = Vec::new();
        loop {
            let forgotten = ledger.retain(&older_than_a_minute(false)).await.unwrap();
            commits.push(forgotten.results);
            if !forgotten.more {
                break;
            }
        }
        assert_eq!(commits, [128, 74, 1], "so many rows, and so many bytes");
        ledger.close().await;
    }
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
