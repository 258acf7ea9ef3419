//! Refused requests: gathered, and stored beside everything else. Nobody waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_postgres::types::Type;

use super::failure::Failure;
use super::shared::Shared;
use super::sql;
use crate::ledger::Denied;

/// Those that wait to be stored.
pub(super) const MOST_WAITING: usize = 1_024;
/// Of one statement.
const BATCH: usize = 256;
/// For more to come.
const GATHER: Duration = Duration::from_millis(50);

pub(super) enum Note {
    /// With how many of its tenant's may stay.
    Denied(Box<Denied>, usize),
    /// What came before is to be stored.
    Flush(oneshot::Sender<()>),
}

pub(super) async fn run(shared: Arc<Shared>, mut notes: mpsc::Receiver<Note>) {
    let mut batch = Vec::with_capacity(BATCH);
    while notes.recv_many(&mut batch, BATCH).await > 0 {
        if batch.len() < BATCH && batch.iter().all(|note| matches!(note, Note::Denied(..))) {
            sleep(GATHER).await;
            while let Ok(note) = notes.try_recv() {
                batch.push(note);
                if batch.len() == BATCH {
                    break;
                }
            }
        }
        let (mut denied, mut flushed) = (Vec::new(), Vec::new());
        for note in batch.drain(..) {
            match note {
                Note::Denied(one, kept) => denied.push((*one, kept)),
                Note::Flush(done) => flushed.push(done),
            }
        }
        if !denied.is_empty() && store(&shared, &denied).await.is_err() {
            shared.metrics.denials_dropped(denied.len() as u64);
        }
        for done in flushed {
            let _ = done.send(());
        }
    }
}

async fn store(shared: &Shared, denied: &[(Denied, usize)]) -> Result<(), Failure> {
    if shared.is_down() {
        return Err(Failure::Ambiguous);
    }
    let text = |of: fn(&Denied) -> &str| denied.iter().map(|(one, _)| plain(of(one))).collect::<Vec<_>>();
    let maybe = |of: fn(&Denied) -> Option<&str>| denied.iter().map(|(one, _)| of(one).map(plain)).collect::<Vec<_>>();
    let times: Vec<DateTime<Utc>> = denied.iter().map(|(one, _)| one.denied_at).collect();
    let (tenants, reasons) = (text(|one| &one.tenant), text(|one| &one.reason));
    let (actions, hashes, nonces) = (text(|one| &one.action), text(|one| &one.action_hash), text(|one| &one.nonce));
    let (approvals, keys) = (maybe(|one| one.approval_id.as_deref()), maybe(|one| one.key_id.as_deref()));
    let callers = maybe(|one| one.caller.as_deref());
    let parameters = &[
        (&times as _, Type::TIMESTAMPTZ_ARRAY),
        (&tenants as _, Type::TEXT_ARRAY),
        (&reasons as _, Type::TEXT_ARRAY),
        (&actions as _, Type::TEXT_ARRAY),
        (&hashes as _, Type::TEXT_ARRAY),
        (&nonces as _, Type::TEXT_ARRAY),
        (&approvals as _, Type::TEXT_ARRAY),
        (&keys as _, Type::TEXT_ARRAY),
        (&callers as _, Type::TEXT_ARRAY),
    ];
    shared.ask(sql::DENY, parameters).await?;
    let kept: HashMap<&str, usize> = denied.iter().map(|(one, kept)| (&*one.tenant, *kept)).collect();
    for (tenant, kept) in kept {
        let kept = i64::try_from(kept).unwrap_or(i64::MAX);
        shared.ask(sql::FORGET_DENIALS, &[(&tenant, Type::TEXT), (&kept, Type::INT8)]).await?;
    }
    Ok(())
}

/// PostgreSQL has no text with U+0000 in it, and an action that is not registered may be called anything.
fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
