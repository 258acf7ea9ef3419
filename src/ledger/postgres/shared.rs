//! What claims, the keeper and the recorder of denials share: the connections, and what is known of the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use deadpool::managed::Object;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::acks::Acks;
use super::connect::Connections;
use super::failure::{Failure, Seen, of_pool, of_statement};
use crate::config::ledger::PostgresConfig;
use crate::ledger::{Lease, LedgerError};
use crate::metrics::Metrics;

/// A statement's parameters, with their types, so that nothing must be prepared.
pub(super) type Parameters<'p> = &'p [(&'p (dyn ToSql + Sync), Type)];

pub(super) struct Shared {
    pub(super) config: PostgresConfig,
    pub(super) connections: Connections,
    /// The keeper's: leases are renewed whatever else waits.
    pub(super) own_connection: Connections,
    /// How far clocks may be apart.
    pub(super) skew: TimeDelta,
    pub(super) metrics: Arc<Metrics>,
    pub(super) standing: Mutex<Standing>,
    pub(super) acks: Mutex<Acks>,
    /// Claims that were given up without anybody knowing whether they were stored.
    pub(super) given_up: Mutex<Vec<GivenUp>>,
    /// Nobody is served until the keeper has found the database again.
    pub(super) down: AtomicBool,
    pub(super) closed: AtomicBool,
    /// Turns that ended while the database could not be told so.
    pub(super) unended_turns: Mutex<Vec<String>>,
    /// Wakes the keeper.
    pub(super) attention: Notify,
}

/// Who we are to the other replicas, and what was heard last.
#[derive(Clone)]
pub(super) struct Standing {
    pub(super) replica: Uuid,
    /// Who it would be next: the same one, however often that is tried.
    pub(super) next_replica: Uuid,
    pub(super) lease: Arc<Lease>,
    pub(super) fence: Option<DateTime<Utc>>,
    /// Why nothing is claimed although the database answers.
    pub(super) trouble: Option<&'static str>,
}

#[derive(Clone)]
pub(super) struct GivenUp {
    pub(super) tenant: Arc<str>,
    pub(super) nonce: String,
    pub(super) token: i64,
    pub(super) at: std::time::Instant,
}

impl Shared {
    /// A statement for a client: at once refused while the database is down.
    pub(super) async fn run(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::Nothing(LedgerError::Closed));
        }
        if self.is_down() {
            return Err(Failure::Nothing(LedgerError::Unavailable));
        }
        self.ask(sql, parameters).await
    }

    /// A statement, whatever is known of the database. It is one transaction: its rows are given when it is committed.
    pub(super) async fn ask(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        self.ask_on(&self.connections, sql, parameters).await
    }

    /// The keeper's statements.
    pub(super) async fn keep(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Failure> {
        self.ask_on(&self.own_connection, sql, parameters).await
    }

    async fn ask_on(
        &self,
        connections: &Connections,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Failure> {
        let connected = match connections.get().await {
            Ok(connected) => connected,
            Err(error) => {
                self.see(of_pool(&error));
                return Err(Failure::Nothing(LedgerError::Unavailable));
            }
        };
        match timeout(self.config.statement_timeout, connected.client.query_typed(sql, parameters)).await {
            Ok(Ok(_)) if connected.was_doubtful() => {
                tracing::warn!("a commit was reported that the standby may not have");
                Err(Failure::Ambiguous)
            }
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => {
                let (failure, seen) = of_statement(&error);
                if seen != Seen::Working {
                    drop(Object::take(connected));
                }
                self.see(seen);
                Err(failure)
            }
            Err(_) => {
                drop(Object::take(connected));
                self.see(Seen::Down("no answer in time".to_owned()));
                Err(Failure::Ambiguous)
            }
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    fn see(&self, seen: Seen) {
        if seen == Seen::Working {
            return;
        }
        self.metrics.ledger_failed();
        let Seen::Down(reason) = seen else {
            tracing::warn!("a connection to the ledger's database was lost");
            return self.attention.notify_one();
        };
        if !self.down.swap(true, Ordering::AcqRel) {
            tracing::error!(reason, "the ledger's database is not there");
            // The others lead to the same place, and each of them would have to time out by itself.
            self.connections.retain(|_, _| false);
        }
        self.attention.notify_one();
    }

    /// The keeper has an answer.
    pub(super) fn is_back(&self) {
        if self.down.swap(false, Ordering::AcqRel) {
            tracing::info!("the ledger's database is there");
        }
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing.lock().clone()
    }
}
