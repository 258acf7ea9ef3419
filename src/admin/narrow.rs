//! What the ledger has no index for: executions that somebody looks for by a part of what is known of them.

use crate::ledger::{Filter, Ledger, LedgerError, Record};

/// For one request: a search is never a scan of the whole ledger, and goes on where the one before ended.
const LOOKED_THROUGH: usize = 10_000;
/// Of the ledger's, at once.
const PAGE: usize = 500;

/// Which of those that the ledger lists are wanted. All of it must be so.
#[derive(Clone, Debug, Default)]
pub(super) struct Narrow {
    /// Of this action.
    pub(super) action: Option<String>,
    /// Of this tenant.
    pub(super) tenant: Option<String>,
    /// With this in its id, nonce, approval, action hash or caller.
    pub(super) search: Option<String>,
}

impl Narrow {
    /// Those that are wanted, at most `filter.limit`, and after which one the next page begins. A page may have fewer of
    /// them, even none, where there are more of others between them.
    pub(super) async fn list(
        &self,
        ledger: &dyn Ledger,
        filter: Filter,
    ) -> Result<(Vec<Record>, Option<String>), LedgerError> {
        let limit = filter.limit;
        let mut page = filter;
        if !self.is_everything() {
            page.limit = PAGE;
        }
        let (mut found, mut looked) = (Vec::new(), 0);
        loop {
            let records = ledger.list(&page).await?;
            let is_last = records.len() < page.limit;
            looked += records.len();
            for record in records {
                page.before = Some(record.execution.id.clone());
                if self.wants(&record) {
                    found.push(record);
                }
                if found.len() == limit {
                    return Ok((found, page.before));
                }
            }
            if is_last {
                return Ok((found, None));
            }
            if looked >= LOOKED_THROUGH {
                return Ok((found, page.before));
            }
        }
    }

    fn is_everything(&self) -> bool {
        self.action.is_none() && self.tenant.is_none() && self.search.is_none()
    }

    fn wants(&self, record: &Record) -> bool {
        let execution = &record.execution;
        let is = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        let searched = [
            Some(&*execution.id),
            Some(&*record.nonce),
            record.approval_id.as_deref(),
            Some(&*execution.action_hash),
            record.caller.as_deref(),
        ];
        let has = |search: &String| searched.into_iter().flatten().any(|text| text.contains(search.as_str()));
        is(&self.action, &execution.action) && is(&self.tenant, &record.tenant) && self.search.as_ref().is_none_or(has)
    }
}
