//! Whether the ledger, and everything that it says, is as it must be.

use std::collections::BTreeMap;
use std::fmt;

use openexec_protocol::timestamp;

use super::{About, CareError, source};
use crate::config::ledger::LedgerConfig;

/// Problems that are listed; there may be more.
pub(in crate::ledger) const LISTED: usize = 20;

/// What a check found.
pub struct Findings {
    ledger_id: String,
    fence: Option<String>,
    /// By state.
    executions: BTreeMap<String, u64>,
    receipts: u64,
    more: Vec<(&'static str, String)>,
    /// What is wrong; empty when nothing is.
    pub problems: Vec<String>,
}

/// Reads all of it: its structure, each execution, each receipt.
///
/// # Errors
/// It cannot be read at all.
pub fn check(config: &LedgerConfig) -> Result<Findings, CareError> {
    let mut source = source(config)?;
    let About { ledger_id, fence, more, mut problems, .. } = source.about(true)?;
    let (mut executions, mut receipts) = (BTreeMap::new(), 0);
    source.each(&mut |line| {
        if let Some(problem) = line.problem().filter(|_| problems.len() < LISTED) {
            problems.push(format!("execution {}: {problem}", line.id));
        }
        receipts += u64::from(line.result.is_some());
        *executions.entry(line.state).or_default() += 1;
        Ok(())
    })?;
    if ledger_id.is_empty() {
        problems.push("its ledger_id is missing".to_owned());
    }
    Ok(Findings { fence: fence.map(timestamp::print), ledger_id, executions, receipts, more, problems })
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u64 = self.executions.values().sum();
        let states: Vec<_> = self.executions.iter().map(|(state, count)| format!("{count} {state}")).collect();
        writeln!(f, "ledger      {}", self.ledger_id)?;
        writeln!(f, "executions  {total} ({})", states.join(", "))?;
        writeln!(f, "receipts    {} checked", self.receipts)?;
        write!(f, "fence       {}", self.fence.as_deref().unwrap_or("none"))?;
        self.more.iter().try_for_each(|(name, text)| write!(f, "\n{name:<12}{text}"))
    }
}
