//! Authentic requests that were refused, for whoever has a token.

use http::Method;
use openexec_protocol::refusal::Refusal;
use openexec_protocol::timestamp;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};

use super::executions::{LARGEST_PAGE, PAGE, invalid, unavailable};
use super::token::Role;
use super::{Admin, no_such_path};
use crate::execute::respond;
use crate::ledger::{DenialFilter, Denied};

impl Admin {
    /// `GET /denials`
    pub(super) async fn denials(&self, session: &mut ServerSession) -> Result<Value, Refusal> {
        if !self.has_tokens() {
            return Err(no_such_path());
        }
        let header = session.req_header();
        if header.method != Method::GET {
            return Err(respond::method_not_allowed("GET"));
        }
        self.require(Role::Reader, header)?;
        let filter = filter(header.uri.query().unwrap_or_default())?;
        let found = self.ledger()?.denials(&filter).await.map_err(unavailable)?;
        let next = (found.len() == filter.limit).then(|| found.last().map(|(seq, _)| *seq)).flatten();
        Ok(json!({"denials": found.iter().map(document).collect::<Vec<_>>(), "next": next}))
    }
}

fn filter(query: &str) -> Result<DenialFilter, Refusal> {
    let mut filter = DenialFilter { limit: PAGE, ..DenialFilter::default() };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "tenant" => filter.tenant = Some(value.into_owned()),
            "before" => {
                let before = value.parse().ok().filter(|seq: &i64| *seq > 0);
                filter.before = Some(before.ok_or_else(|| invalid("`before` must be a number above 0".to_owned()))?);
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
                filter.limit = limit.ok_or_else(|| invalid(format!("`limit` must be 1 to {LARGEST_PAGE}")))?;
            }
            _ => return Err(invalid("the query may have `tenant`, `before` and `limit`".to_owned())),
        }
    }
    Ok(filter)
}

fn document((seq, denied): &(i64, Denied)) -> Value {
    json!({
        "seq": seq,
        "denied_at": timestamp::print(denied.denied_at),
        "tenant": &*denied.tenant,
        "reason": denied.reason,
        "action": denied.action,
        "action_hash": denied.action_hash,
        "nonce": denied.nonce,
        "approval_id": denied.approval_id,
        "key_id": denied.key_id,
        "caller": denied.caller.as_deref(),
    })
}
