//! The ledger without a server around it: what SQLite can do on this machine when nobody else wants a core.

use std::sync::Arc;
use std::time::Instant;

use chrono::{TimeDelta, Utc};
use openexec::config::ledger::{FencePolicy, LedgerConfig, SqliteConfig};
use openexec::ledger::{Claimed, Done, Ledger, NewExecution, OnFatal, open};
use openexec::metrics::Metrics;
use openexec_protocol::canonical::CanonicalText;
use openexec_protocol::request::action_hash;
use uuid::Uuid;

use crate::load::Ids;

/// Claims a second, with this many under way at once.
pub(crate) fn rate(requests: usize, at_once: usize, ids: Ids) -> f64 {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = LedgerConfig::Sqlite(SqliteConfig {
        path: directory.path().join("alone.db"),
        anchor: directory.path().join("alone.db.anchor"),
        create: true,
        fence: FencePolicy::Auto,
        cache_bytes: 0,
        min_free_bytes: 0,
    });
    let on_fatal: OnFatal = Arc::new(|error| panic!("{error}"));
    let opening = open(&config).unwrap();
    let ledger = opening.start(true, TimeDelta::seconds(30), Arc::new(Metrics::new()), on_fatal).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let started = Instant::now();
        let tasks: Vec<_> =
            (0..at_once).map(|_| tokio::spawn(claims(ledger.clone(), requests / at_once, ids))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        let rate = requests as f64 / started.elapsed().as_secs_f64();
        ledger.close().await;
        rate
    })
}

async fn claims(ledger: Arc<dyn Ledger>, count: usize, ids: Ids) {
    for _ in 0..count {
        let new = NewExecution {
            id: Uuid::now_v7().to_string(),
            tenant: "tenant-001".into(),
            nonce: ids.next(),
            action: "echo".to_owned(),
            action_hash: action_hash("echo", &CanonicalText::empty_object()),
            approval_id: Some(ids.next()),
            issued_at: None,
            key_id: None,
            caller: None,
            dispatched: None,
            claimed_at: Utc::now(),
        };
        let done =
            Done { upstream_status: None, headers: Vec::new(), result: "x".repeat(540), receipt: "0".repeat(64) };
        let claimed = ledger.claim(new, Some(done)).await.unwrap();
        assert!(matches!(claimed, Claimed::New(..)));
    }
}
