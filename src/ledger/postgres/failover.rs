//! After a failover: whether the new server has everything that the old one had acknowledged.
//!
//! Until that is known nothing is claimed anywhere, since each claim compares the server's timeline with the one that is
//! known to be whole. Every replica looks for its own last writes. If all replicas that lived find theirs, and commits
//! had to wait for another machine, nothing is missing. Otherwise the fence is raised: approvals of before are refused.

use std::time::Instant;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::failure::Failure;
use super::keeper::Heard;
use super::row::get;
use super::shared::Shared;
use super::sql;

/// What is known of the database that answers.
#[derive(Default)]
pub(super) struct Watch {
    /// The failover that is not over: to which timeline, and since when.
    since: Option<(String, Instant)>,
    /// On which this process was known last.
    timeline: Option<String>,
    /// Something is missing, and the fence has not been raised for it yet.
    lacks: bool,
}

impl Watch {
    /// On a timeline that is known to be whole. There is something missing all the same if an earlier state was restored, if
    /// a server is used again that should be off, if the standby did not even know of this replica, or if these are tables
    /// of another cluster.
    pub(super) async fn compare(&mut self, shared: &Shared, heard: &Heard) -> Result<(), Failure> {
        // Nobody else takes away a replica that lives.
        let is_known = heard.is_registered || !heard.was_alive && self.timeline.as_ref() == Some(&heard.timeline);
        self.lacks |= !heard.has_ours || !is_known || !heard.on_cluster;
        if self.lacks {
            let (skew, now) = (shared.skew.as_seconds_f64(), Utc::now());
            let parameters = &[(&skew as _, Type::FLOAT8), (&now as _, Type::TIMESTAMPTZ)];
            shared.keep(sql::MOVE_CLUSTER, parameters).await?;
            raised(shared, &shared.keep(sql::RAISE, parameters).await?, "the database knows less than it did")?;
        }
        (self.since, self.lacks) = (None, false);
        self.timeline = Some(heard.timeline.clone());
        Ok(())
    }

    /// A step further. A replica that was registered, and is not, is missing itself.
    pub(super) async fn verify(&mut self, shared: &Shared, heard: &Heard) -> Result<(), Failure> {
        // After another one everybody has the whole time once more.
        let since = match &self.since {
            Some((timeline, since)) if *timeline == heard.timeline => *since,
            _ => {
                tracing::warn!("the ledger's database is another one now: whether it lacks anything is looked for");
                let now = Instant::now();
                self.since = Some((heard.timeline.clone(), now));
                now
            }
        };
        if !heard.is_registered || !heard.has_ours {
            // Others may have concluded meanwhile that nothing is.
            self.lacks = true;
            if conclude_badly(shared, "it lacks what the one before had acknowledged to this process").await? {
                self.lacks = false;
                shared.acks.lock().beat(heard.beat, heard.begun);
            }
            return Ok(());
        }
        let replica = shared.standing().replica;
        shared.keep(sql::WITNESS, &[(&replica, Type::UUID)]).await?;
        if !shared.keep(sql::CONCLUDE_WELL, &[]).await?.is_empty() {
            tracing::info!("the ledger's new database has everything that the one before had acknowledged");
            return Ok(());
        }
        // Replicas that live say so within a beat or two; others never will.
        if since.elapsed() >= shared.config.lease {
            conclude_badly(shared, "it cannot be verified that it has everything").await?;
            return Ok(());
        }
        tokio::time::sleep(shared.config.lease / 60).await;
        Ok(())
    }
}

/// False where another replica has concluded.
async fn conclude_badly(shared: &Shared, reason: &str) -> Result<bool, Failure> {
    let (skew, now) = (shared.skew.as_seconds_f64(), Utc::now());
    let parameters = &[(&skew as _, Type::FLOAT8), (&now as _, Type::TIMESTAMPTZ)];
    raised(shared, &shared.keep(sql::CONCLUDE_BADLY, parameters).await?, reason)
}

fn raised(shared: &Shared, rows: &[Row], reason: &str) -> Result<bool, Failure> {
    let Some(row) = rows.first() else { return Ok(false) };
    let fence: DateTime<Utc> = get(row, 0)?;
    shared.standing.lock().fence = Some(fence);
    tracing::error!(%fence, reason, "approvals issued before the fence are refused");
    Ok(true)
}
