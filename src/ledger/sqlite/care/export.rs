//! The whole ledger as JSON lines.

use std::io::{self, Write};

use chrono::Utc;
use openexec_protocol::timestamp;
use serde::Serialize;

use super::line::{FORMAT, Head, Line, SELECT, Tail};
use super::{CareError, snapshot};
use crate::config::ledger::SqliteConfig;
use crate::ledger::sqlite::meta;

/// Writes a line for the ledger, one for each execution in the order of their claims, and one that says how many there
/// were. Every receipt is verified on the way. Gives their number.
///
/// # Errors
/// A receipt that does not fit, or anything else in the ledger that no execution can have.
pub fn export(config: &SqliteConfig, out: &mut dyn Write) -> Result<u64, CareError> {
    let connection = snapshot(config)?;
    let value = |key| meta(&connection, key);
    let head = Head {
        openexec_export: FORMAT,
        ledger_id: value("ledger_id")?.unwrap_or_default(),
        fence: value("fence")?,
        served_clawshield: value("served_clawshield")?.as_deref() == Some("1"),
        exported_at: timestamp::print(Utc::now()),
    };
    put(out, &head)?;
    let mut executions = 0;
    let mut select = connection.prepare(&format!("{SELECT} ORDER BY seq"))?;
    for line in select.query_map([], Line::of)? {
        let line = line?;
        if let Some(problem) = line.problem() {
            return Err(CareError::Damaged { id: line.id, problem });
        }
        put(out, &line)?;
        executions += 1;
    }
    put(out, &Tail { executions })?;
    out.flush().map_err(failed)?;
    Ok(executions)
}

fn put(out: &mut dyn Write, line: &impl Serialize) -> Result<(), CareError> {
    serde_json::to_writer(&mut *out, line).map_err(|error| failed(error.into()))?;
    out.write_all(b"\n").map_err(failed)
}

fn failed(error: io::Error) -> CareError {
    CareError::File("the export".into(), error)
}
