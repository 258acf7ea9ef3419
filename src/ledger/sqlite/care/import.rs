//! Executions of another ledger: an export, or the 0.2.0 service's file. All of them, or none.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use openexec_protocol::timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::line::{FORMAT, Head, Line, SELECT, Tail};
use super::{CareError, legacy};
use crate::config::ledger::SqliteConfig;
use crate::ledger::RecoveryPolicy;
use crate::ledger::fence::whole_micros;
use crate::ledger::sqlite::{OpenFile, set_meta, stored_fence};

/// Longer than any execution.
const LONGEST_LINE: u64 = 64 << 20;

/// What was imported.
#[derive(Debug, Default)]
pub struct Imported {
    /// Executions that are new here.
    pub executions: u64,
    /// Executions that were here already.
    pub known: u64,
    /// Executions that nobody can ask for here, and were left out: their nonces are no nonces of this version.
    pub unaskable: u64,
    /// Approvals issued before this time are refused.
    pub fence: Option<DateTime<Utc>>,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Nothing of ours.
    #[error("{0} is neither an export (openexec ledger export) nor the file of the 0.2.0 service")]
    Unknown(PathBuf),
    /// A ledger of this program.
    #[error("{0} is a ledger: export it first (openexec ledger export)")]
    Ledger(PathBuf),
    /// A later version's.
    #[error("the export has format {0}, and this version knows {FORMAT}")]
    Format(u32),
    /// A line that is none.
    #[error("line {0}: {1}")]
    Line(u64, String),
    /// It was cut off.
    #[error("the export ends early: its last line must say how many executions it has")]
    CutOff,
    /// The nonce or the approval belongs to another execution here.
    #[error("line {line}: the nonce or the approval of execution {id} belongs to another one here")]
    Conflict {
        /// Where.
        line: u64,
        /// The execution that was to be imported.
        id: String,
    },
}

/// Takes over what a file holds. `tenant` is whose the executions of a 0.2.0 file are: that service knew none. The fence
/// is raised: what the other ledger did after the file was written is not known here.
///
/// # Errors
/// Nothing was imported then.
pub fn import(config: &SqliteConfig, from: &Path, tenant: &str, skew: TimeDelta) -> Result<Imported, CareError> {
    let failed = |error| CareError::File(from.to_owned(), error);
    let mut source = BufReader::new(File::open(from).map_err(failed)?);
    let is_sqlite = source.fill_buf().map_err(failed)?.starts_with(b"SQLite format 3\0");
    let OpenFile { mut connection, was_clean, lock: _lock, .. } = OpenFile::open(config.clone())?;
    let transaction = connection.transaction()?;
    let mut into = Into { connection: &transaction, imported: Imported::default(), newest: None };
    let fence = if is_sqlite {
        legacy::executions(from, tenant, |line| into.put(0, line))?;
        None
    } else {
        read(source, from, &mut into)?
    };
    let (newest, mut imported) = (into.newest, into.imported);
    let own = stored_fence(&transaction)?;
    let raised = newest.max(Some(Utc::now())).map(|time| whole_micros(time + skew));
    imported.fence = [own, fence, raised].into_iter().flatten().max();
    if let Some(fence) = imported.fence {
        set_meta(&transaction, "fence", &timestamp::print(fence))?;
    }
    if was_clean {
        // The next start need not check a ledger that was made here.
        set_meta(&transaction, "clean", "1")?;
    }
    transaction.commit()?;
    Ok(imported)
}

/// Reads an export. Gives the fence of its ledger.
fn read(mut source: impl BufRead, from: &Path, into: &mut Into<'_>) -> Result<Option<DateTime<Utc>>, CareError> {
    let mut text = String::new();
    let mut at = 0;
    let mut next = |text: &mut String| {
        text.clear();
        at += 1;
        let read = source.by_ref().take(LONGEST_LINE).read_line(text);
        read.map(|count| (count > 0).then_some(at)).map_err(|error| CareError::File(from.to_owned(), error))
    };
    let unknown = || ImportError::Unknown(from.to_owned());
    next(&mut text)?.ok_or_else(unknown)?;
    let head: Head = serde_json::from_str(&text).map_err(|_| unknown())?;
    if head.openexec_export != FORMAT {
        return Err(ImportError::Format(head.openexec_export).into());
    }
    let fence = head.fence.as_deref().map(|text| timestamp::parse(text).ok_or_else(unknown)).transpose()?;
    let mut executions = 0;
    while let Some(number) = next(&mut text)? {
        if let Ok(tail) = serde_json::from_str::<Tail>(&text) {
            if tail.executions != executions || next(&mut text)?.is_some() {
                return Err(ImportError::CutOff.into());
            }
            if head.served_clawshield {
                set_meta(into.connection, "served_clawshield", "1")?;
            }
            return Ok(fence);
        }
        // The parser's own text could repeat what is in the line.
        let line = serde_json::from_str::<Line>(&text)
            .map_err(|error| ImportError::Line(number, format!("no execution (see column {})", error.column())))?;
        into.put(number, line)?;
        executions += 1;
    }
    Err(ImportError::CutOff.into())
}

struct Into<'c> {
    connection: &'c Connection,
    imported: Imported,
    newest: Option<DateTime<Utc>>,
}

impl Into<'_> {
    fn put(&mut self, number: u64, mut line: Line) -> Result<(), CareError> {
        if line.nonce.is_empty() || line.nonce.len() > 256 || line.nonce.contains('\0') {
            self.imported.unaskable += 1;
            return Ok(());
        }
        if let Some(problem) = line.problem() {
            return Err(ImportError::Line(number, format!("execution {}: {problem}", line.id)).into());
        }
        if line.state == "INTENT" {
            // It ran elsewhere when the export was made. What came of it is not known here.
            line.state = "UNKNOWN".to_owned();
            line.settled_at = Some(timestamp::print(Utc::now()));
        }
        if line.policy.is_some() {
            // Recovery would send what a file says, which nobody signed.
            line.policy = Some(RecoveryPolicy::Operator.as_str().to_owned());
        }
        self.newest = self.newest.max(line.claimed_at());
        line.spell_times();
        let inserted = self.connection.prepare_cached(INSERT)?.execute(params![
            line.id,
            line.tenant,
            line.nonce,
            line.action,
            line.action_hash,
            line.state,
            line.claimed_at,
            line.settled_at,
            line.approval_id,
            line.status,
            line.receipt,
            line.result,
            line.headers,
            line.payload,
            line.route,
            line.policy,
            line.settled_by,
        ])?;
        if inserted == 1 {
            self.imported.executions += 1;
            return Ok(());
        }
        let mut select = self.connection.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
        let known = select.query_row([&line.id], Line::of).optional()?;
        // What became of it may be known better here by now.
        let same = known.is_some_and(|known| {
            (&known.tenant, &known.nonce, &known.action_hash, &known.approval_id)
                == (&line.tenant, &line.nonce, &line.action_hash, &line.approval_id)
        });
        if !same {
            return Err(ImportError::Conflict { line: number, id: line.id }.into());
        }
        self.imported.known += 1;
        Ok(())
    }
}

const INSERT: &str = "
INSERT INTO executions (id, tenant, nonce, action, action_hash, state, claimed_at, settled_at, approval_id, status,
                        receipt, result, headers, payload, route, policy, settled_by)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
ON CONFLICT DO NOTHING";
