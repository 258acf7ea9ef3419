//! Finds what is old enough to be forgotten, beside the writer, which then only touches those rows.

use chrono::{DateTime, Utc};
use openexec_protocol::timestamp;
use rusqlite::Connection;

use super::schema;
use crate::ledger::Horizon;

/// Rows of one kind that are forgotten in one commit: each dirties some pages of its own.
const MOST_ROWS: usize = 128;
/// Bytes of results forgotten in one commit: the pages of a long one are read, to be freed.
const MOST_BYTES: u64 = 4 << 20;

/// Rows of the ledger that may be forgotten.
#[derive(Default)]
pub(super) struct Old {
    pub(super) results: Vec<Row>,
    pub(super) executions: Vec<Row>,
    /// There are more.
    pub(super) more: bool,
}

pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) tenant: String,
    pub(super) nonce: String,
}

impl Old {
    pub(super) fn is_empty(&self) -> bool {
        self.results.is_empty() && self.executions.is_empty()
    }
}

pub(super) fn find(reader: &Connection, horizon: &Horizon) -> rusqlite::Result<Old> {
    let mut old = Old::default();
    if let Some(before) = horizon.results {
        old.more |= settled(reader, schema::KEPT, before, &mut old.results)?;
    }
    if let Some(before) = horizon.executions {
        old.more |= settled(reader, schema::OLDEST, before, &mut old.executions)?;
        // The newest row stays, or it would be found again and again.
        let newest: Option<i64> = reader.query_row("SELECT max(seq) FROM executions", [], |row| row.get(0))?;
        old.executions.retain(|row| Some(row.seq) != newest);
    }
    Ok(old)
}

/// Whether there may be more of them. Rows are in the order of their claims, but for a clock that was set back: then some
/// stay longer. One that was settled late stays as long as the others after that.
fn settled(reader: &Connection, sql: &str, before: DateTime<Utc>, found: &mut Vec<Row>) -> rusqlite::Result<bool> {
    // One spelling of time: its order is that of the texts.
    let before = timestamp::print(before);
    let mut statement = reader.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if row.get_ref(3)?.as_str()? >= before.as_str() {
            return Ok(false);
        }
        if row.get_ref(4)?.as_str_or_null()?.is_none_or(|settled_at| settled_at >= before.as_str()) {
            continue;
        }
        if found.len() == MOST_ROWS || bytes > MOST_BYTES {
            return Ok(true);
        }
        bytes += row.get::<_, u32>(5)? as u64;
        found.push(Row { seq: row.get(0)?, tenant: row.get(1)?, nonce: row.get(2)? });
    }
    Ok(false)
}
