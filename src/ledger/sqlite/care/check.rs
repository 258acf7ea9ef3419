//! Whether the file, and everything that it says, is as it must be.

use std::collections::BTreeMap;
use std::fmt;

use super::line::{Line, SELECT};
use super::{CareError, snapshot};
use crate::config::ledger::SqliteConfig;
use crate::ledger::Anchor;
use crate::ledger::sqlite::{meta, newest};

/// Problems that are listed; there may be more.
const LISTED: usize = 20;

/// What a check found.
pub struct Findings {
    ledger_id: String,
    fence: Option<String>,
    /// By state.
    executions: BTreeMap<String, u64>,
    receipts: u64,
    anchor: String,
    /// What is wrong; empty when nothing is.
    pub problems: Vec<String>,
}

/// Reads all of it: the file's structure, each execution, each receipt.
///
/// # Errors
/// It cannot be read at all.
pub fn check(config: &SqliteConfig) -> Result<Findings, CareError> {
    let connection = snapshot(config)?;
    let mut problems = Vec::new();
    let mut structure = connection.prepare(&format!("PRAGMA integrity_check({LISTED})"))?;
    for finding in structure.query_map([], |row| row.get::<_, String>(0))? {
        problems.push(finding?);
    }
    problems.retain(|finding| finding != "ok");
    let (mut executions, mut receipts) = (BTreeMap::new(), 0);
    let mut select = connection.prepare(&format!("{SELECT} ORDER BY seq"))?;
    for line in select.query_map([], Line::of)? {
        let line = line?;
        if let Some(problem) = line.problem().filter(|_| problems.len() < LISTED) {
            problems.push(format!("execution {}: {problem}", line.id));
        }
        receipts += u64::from(line.result.is_some());
        *executions.entry(line.state).or_default() += 1;
    }
    let ledger_id = meta(&connection, "ledger_id")?.unwrap_or_default();
    if ledger_id.is_empty() {
        problems.push("its ledger_id is missing".to_owned());
    }
    let anchor = anchor(config, &ledger_id, newest(&connection)?.0);
    Ok(Findings { fence: meta(&connection, "fence")?, ledger_id, executions, receipts, anchor, problems })
}

/// An anchor that does not fit is no damage: the next start raises the fence.
fn anchor(config: &SqliteConfig, ledger_id: &str, last_seq: i64) -> String {
    let path = config.anchor.display();
    match Anchor::read(&config.anchor) {
        Ok(Some(anchor)) if anchor.ledger_id != ledger_id => {
            format!("{path} is another ledger's: a start raises the fence")
        }
        // A server that runs writes both, the anchor a little later.
        Ok(Some(anchor)) if anchor.last_seq > last_seq => {
            format!("{path} is ahead, the ledger was rolled back: a start raises the fence")
        }
        Ok(Some(_)) => format!("{path} fits"),
        Ok(None) => format!("{path} is not there: a start raises the fence"),
        Err(error) => format!("{path}: {error}: a start raises the fence"),
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u64 = self.executions.values().sum();
        let states: Vec<_> = self.executions.iter().map(|(state, count)| format!("{count} {state}")).collect();
        writeln!(f, "ledger      {}", self.ledger_id)?;
        writeln!(f, "executions  {total} ({})", states.join(", "))?;
        writeln!(f, "receipts    {} checked", self.receipts)?;
        writeln!(f, "fence       {}", self.fence.as_deref().unwrap_or("none"))?;
        write!(f, "anchor      {}", self.anchor)
    }
}
