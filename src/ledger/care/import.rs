//! Executions of another ledger: an export, or the 0.2.0 service's file. All of them, or none.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use openexec_protocol::timestamp;

use super::line::{FORMAT, Head, Line, OLDEST_FORMAT, Tail};
use super::{CareError, Target, target};
use crate::config::ledger::LedgerConfig;
use crate::ledger::RecoveryPolicy;
use crate::ledger::fence::whole_micros;
use crate::ledger::sqlite::care::legacy;

/// Longer than any execution.
const LONGEST_LINE: u64 = 64 << 20;

/// Executions that are given to the ledger at once, and their bytes.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 4 << 20;

/// What was imported.
#[derive(Debug, Default)]
pub struct Imported {
    /// Where they are now.
    pub ledger: String,
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
pub fn import(config: &LedgerConfig, from: &Path, tenant: &str, skew: TimeDelta) -> Result<Imported, CareError> {
    let failed = |error| CareError::File(from.to_owned(), error);
    let mut source = BufReader::new(File::open(from).map_err(failed)?);
    let is_sqlite = source.fill_buf().map_err(failed)?.starts_with(b"SQLite format 3\0");
    let target = target(config)?;
    let imported = Imported { ledger: target.name(), ..Imported::default() };
    let mut into = Into { target, imported, newest: None, batch: Vec::new(), bytes: 0 };
    let (served_clawshield, fence) = if is_sqlite {
        legacy::executions(from, tenant, |line| into.put(0, line))?;
        (false, None)
    } else {
        read(source, from, &mut into)?
    };
    into.flush()?;
    let Into { newest, mut imported, target, .. } = into;
    let raised = whole_micros(newest.unwrap_or_default().max(Utc::now()) + skew);
    imported.fence = target.finish(served_clawshield, fence.map_or(raised, |fence| fence.max(raised)))?;
    Ok(imported)
}

/// Reads an export. Tells whether its ledger served ClawShield mode, and that one's fence.
fn read(mut source: impl BufRead, from: &Path, into: &mut Into) -> Result<(bool, Option<DateTime<Utc>>), CareError> {
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
    if !(OLDEST_FORMAT..=FORMAT).contains(&head.openexec_export) {
        return Err(ImportError::Format(head.openexec_export).into());
    }
    let fence = head.fence.as_deref().map(|text| timestamp::parse(text).ok_or_else(unknown)).transpose()?;
    let mut executions = 0;
    while let Some(number) = next(&mut text)? {
        if let Ok(tail) = serde_json::from_str::<Tail>(&text) {
            if tail.executions != executions || next(&mut text)?.is_some() {
                return Err(ImportError::CutOff.into());
            }
            return Ok((head.served_clawshield, fence));
        }
        // The parser's own text could repeat what is in the line.
        let line = serde_json::from_str::<Line>(&text)
            .map_err(|error| ImportError::Line(number, format!("no execution (see column {})", error.column())))?;
        into.put(number, line)?;
        executions += 1;
    }
    Err(ImportError::CutOff.into())
}

struct Into {
    target: Box<dyn Target>,
    imported: Imported,
    newest: Option<DateTime<Utc>>,
    batch: Vec<(u64, Line)>,
    bytes: usize,
}

impl Into {
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
        self.bytes += line.result.as_ref().map_or(0, String::len) + line.payload.as_ref().map_or(0, String::len);
        self.batch.push((number, line));
        if self.batch.len() >= BATCH || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), CareError> {
        let new = self.target.put(&self.batch)?.map_err(|(line, id)| ImportError::Conflict { line, id })?;
        self.imported.executions += new;
        self.imported.known += self.batch.len() as u64 - new;
        self.batch.clear();
        self.bytes = 0;
        Ok(())
    }
}
