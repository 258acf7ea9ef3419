//! An execution as a line of an export: what every ledger has in common, so that one kind can be moved to another.

use chrono::{DateTime, Utc};
use openexec_protocol::{receipt, timestamp};
use serde::{Deserialize, Serialize};

use crate::ledger::State;

/// The first line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ledger) struct Head {
    /// The format's version: [`FORMAT`].
    pub(in crate::ledger) openexec_export: u32,
    pub(in crate::ledger) ledger_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) fence: Option<String>,
    pub(in crate::ledger) served_clawshield: bool,
    pub(in crate::ledger) exported_at: String,
}

/// The last line: without it the export was cut off.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ledger) struct Tail {
    pub(in crate::ledger) executions: u64,
}

pub(in crate::ledger) const FORMAT: u32 = 2;
/// The oldest that is read: it knew neither keys nor callers.
pub(in crate::ledger) const OLDEST_FORMAT: u32 = 1;

/// The columns of the table, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ledger) struct Line {
    pub(in crate::ledger) id: String,
    pub(in crate::ledger) tenant: String,
    pub(in crate::ledger) nonce: String,
    pub(in crate::ledger) action: String,
    pub(in crate::ledger) action_hash: String,
    pub(in crate::ledger) state: String,
    pub(in crate::ledger) claimed_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) settled_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) approval_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) receipt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) result: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) headers: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) route: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) policy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) settled_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) key_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) caller: Option<String>,
}

impl Line {
    /// What is wrong with it, whatever else the ledger holds.
    pub(in crate::ledger) fn problem(&self) -> Option<&'static str> {
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
    pub(in crate::ledger) fn spell_times(&mut self) {
        for time in [Some(&mut self.claimed_at), self.settled_at.as_mut()].into_iter().flatten() {
            if let Some(parsed) = timestamp::parse(time) {
                *time = timestamp::print(parsed);
            }
        }
    }

    /// The same execution, of which more may be known by now.
    pub(in crate::ledger) fn is_same(&self, other: &Line) -> bool {
        (&self.id, &self.tenant, &self.nonce, &self.action_hash, &self.approval_id)
            == (&other.id, &other.tenant, &other.nonce, &other.action_hash, &other.approval_id)
    }

    pub(in crate::ledger) fn claimed_at(&self) -> Option<DateTime<Utc>> {
        timestamp::parse(&self.claimed_at)
    }
}
