//! An execution as a line of an export: what every ledger has in common, so that one kind can be moved to another.

use chrono::{DateTime, Utc};
use openexec_protocol::{receipt, timestamp};
use rusqlite::Row;
use serde::{Deserialize, Serialize};

use crate::ledger::State;

/// The first line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    /// The format's version: [`FORMAT`].
    pub(super) openexec_export: u32,
    pub(super) ledger_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fence: Option<String>,
    pub(super) served_clawshield: bool,
    pub(super) exported_at: String,
}

/// The last line: without it the export was cut off.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tail {
    pub(super) executions: u64,
}

pub(super) const FORMAT: u32 = 1;

/// The columns of the table, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) id: String,
    pub(super) tenant: String,
    pub(super) nonce: String,
    pub(super) action: String,
    pub(super) action_hash: String,
    pub(super) state: String,
    pub(super) claimed_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) settled_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) approval_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) receipt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) headers: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) settled_by: Option<String>,
}

/// In the order of [`Line::of`].
pub(super) const SELECT: &str = "
SELECT id, tenant, nonce, action, action_hash, state, claimed_at, settled_at, approval_id, status, receipt, result,
       headers, payload, route, policy, settled_by
FROM executions";

impl Line {
    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Line {
            id: row.get(0)?,
            tenant: row.get(1)?,
            nonce: row.get(2)?,
            action: row.get(3)?,
            action_hash: row.get(4)?,
            state: row.get(5)?,
            claimed_at: row.get(6)?,
            settled_at: row.get(7)?,
            approval_id: row.get(8)?,
            status: row.get(9)?,
            receipt: row.get(10)?,
            result: row.get(11)?,
            headers: row.get(12)?,
            payload: row.get(13)?,
            route: row.get(14)?,
            policy: row.get(15)?,
            settled_by: row.get(16)?,
        })
    }

    /// What is wrong with it, whatever else the ledger holds.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let is_time = |text: &str| timestamp::parse(text).is_some();
        let is_done = self.state == "DONE";
        let hash_is_one = self.action_hash.len() == 64
            && self.action_hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let headers_are_good = self
            .headers
            .as_deref()
            .is_none_or(|headers| serde_json::from_str::<Vec<(String, String)>>(headers).is_ok());
        match (&self.receipt, &self.result) {
            _ if self.id.is_empty() || self.nonce.is_empty() => Some("it has no id or no nonce"),
            _ if !State::WORDS.contains(&self.state.as_str()) => Some("its state is none"),
            _ if !hash_is_one => Some("its action_hash is none"),
            _ if !is_time(&self.claimed_at) => Some("claimed_at is no time"),
            _ if !self.settled_at.as_deref().is_none_or(is_time) => Some("settled_at is no time"),
            _ if self.settled_at.is_none() != (self.state == "INTENT") => Some("settled_at contradicts its state"),
            _ if !headers_are_good => Some("its headers are none"),
            (None, _) if is_done => Some("it is DONE without a receipt"),
            (Some(_), _) | (_, Some(_)) if !is_done => Some("it has a result, and is not DONE"),
            (Some(receipt), Some(result)) if !receipt::verify(&self.id, result, receipt) => {
                Some("its receipt does not fit its result")
            }
            _ if self.state == "NOT_EXECUTED" && self.status.is_none() => Some("it has no status"),
            _ if self.route.is_some() != self.policy.is_some() => Some("it has a route or a policy, and not both"),
            _ => None,
        }
    }

    /// Gives its times the one spelling that the ledger has: their order is that of the texts.
    pub(super) fn spell_times(&mut self) {
        for time in [Some(&mut self.claimed_at), self.settled_at.as_mut()].into_iter().flatten() {
            if let Some(parsed) = timestamp::parse(time) {
                *time = timestamp::print(parsed);
            }
        }
    }

    pub(super) fn claimed_at(&self) -> Option<DateTime<Utc>> {
        timestamp::parse(&self.claimed_at)
    }
}
