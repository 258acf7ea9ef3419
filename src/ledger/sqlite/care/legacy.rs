//! The file of the 0.2.0 service: one table of ids, actions, payloads, results and nonces, without times or tenants.

use std::path::Path;

use chrono::Utc;
use openexec_protocol::canonical::{CanonicalText, Limits};
use openexec_protocol::receipt::{self, ResultText};
use openexec_protocol::request::action_hash;
use openexec_protocol::timestamp;
use rusqlite::Connection;

use crate::ledger::care::line::Line;
use crate::ledger::care::{CareError, ImportError};
use crate::ledger::sqlite::{file, schema};

/// That service had no limits on JSON.
const ANY: Limits = Limits { depth: 512, nodes: usize::MAX };

/// Every execution of the file, as one of ours, claimed now: when it was, the file does not say.
pub(in crate::ledger) fn executions(
    from: &Path,
    tenant: &str,
    mut put: impl FnMut(Line) -> Result<(), CareError>,
) -> Result<(), CareError> {
    let connection = file::connect_reader(from)?;
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if application == schema::APPLICATION_ID {
        return Err(ImportError::Ledger(from.to_owned()).into());
    }
    let table = file::legacy_table(&connection)?.ok_or_else(|| ImportError::Unknown(from.to_owned()))?;
    let table = table.replace('"', "\"\"");
    let now = timestamp::print(Utc::now());
    read(&connection, &table, |id, action, payload, result, nonce| {
        let receipt = receipt::receipt(&id, &result);
        put(Line {
            action_hash: hash_of(&action, &payload),
            // One that our strict rules would not print again (a NaN, say) cannot be answered. Its receipt stays.
            result: CanonicalText::parse(result.as_bytes(), ANY)
                .is_ok_and(|canonical| ResultText::from(&canonical).as_str() == result)
                .then_some(result),
            receipt: Some(receipt),
            id,
            tenant: tenant.to_owned(),
            nonce,
            action,
            state: "DONE".to_owned(),
            claimed_at: now.clone(),
            settled_at: Some(now.clone()),
            approval_id: None,
            key_id: None,
            caller: None,
            status: None,
            headers: None,
            payload: None,
            route: None,
            policy: None,
            settled_by: Some("import: OpenExec 0.2.0".to_owned()),
        })
    })
}

fn read(
    connection: &Connection,
    table: &str,
    mut each: impl FnMut(String, String, String, String, String) -> Result<(), CareError>,
) -> Result<(), CareError> {
    let mut select =
        connection.prepare(&format!("SELECT id, action, payload, result, nonce FROM \"{table}\" ORDER BY rowid"))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        each(row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)?;
    }
    Ok(())
}

/// A payload that has no canonical text cannot be asked for here: its hash must only be no other request's.
fn hash_of(action: &str, payload: &str) -> String {
    match CanonicalText::parse(payload.as_bytes(), ANY) {
        Ok(canonical) => action_hash(action, &canonical).as_str().to_owned(),
        Err(_) => receipt::receipt("openexec-0.2.0", &format!("{action}:{payload}")),
    }
}
