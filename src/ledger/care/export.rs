//! The whole ledger as JSON lines.

use std::io::{self, Write};

use chrono::Utc;
use openexec_protocol::timestamp;
use serde::Serialize;

use super::line::{FORMAT, Head, Tail};
use super::{CareError, source};
use crate::config::ledger::LedgerConfig;

/// Writes a line for the ledger, one for each execution in the order of their claims, and one that says how many there
/// were. Every receipt is verified on the way. Gives their number.
///
/// # Errors
/// A receipt that does not fit, or anything else in the ledger that no execution can have.
pub fn export(config: &LedgerConfig, out: &mut dyn Write) -> Result<u64, CareError> {
    let mut source = source(config)?;
    let about = source.about(false)?;
    let head = Head {
        openexec_export: FORMAT,
        ledger_id: about.ledger_id,
        fence: about.fence.map(timestamp::print),
        served_clawshield: about.served_clawshield,
        exported_at: timestamp::print(Utc::now()),
    };
    put(out, &head)?;
    let mut executions = 0;
    source.each(&mut |line| {
        if let Some(problem) = line.problem() {
            return Err(CareError::Damaged { id: line.id, problem });
        }
        executions += 1;
        put(out, &line)
    })?;
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
