//! What a settled state adds to its row, whatever engine keeps it.

use super::Outcome;

/// `None` where the state has none.
pub(super) struct Columns<'s> {
    pub(super) status: Option<u16>,
    pub(super) receipt: Option<&'s str>,
    pub(super) result: Option<&'s str>,
    /// A JSON array of names and values; `None` when there are none.
    pub(super) headers: Option<String>,
}

impl<'s> From<&'s Outcome> for Columns<'s> {
    fn from(outcome: &'s Outcome) -> Self {
        match outcome {
            Outcome::Done(done) => Columns {
                status: done.upstream_status,
                receipt: Some(&done.receipt),
                result: Some(&done.result),
                headers: (!done.headers.is_empty())
                    .then(|| serde_json::to_string(&done.headers).expect("strings are JSON")),
            },
            Outcome::NotExecuted { status } => {
                Columns { status: Some(*status), receipt: None, result: None, headers: None }
            }
            Outcome::Unknown => Columns { status: None, receipt: None, result: None, headers: None },
        }
    }
}
