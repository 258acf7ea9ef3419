//! What was executed, for whoever has a token: to look at, and to settle what nobody else can.

use http::Method;
use openexec_protocol::canonical::{CanonicalText, Limits};
use openexec_protocol::receipt::ResultText;
use openexec_protocol::refusal::{Code, Refusal};
use openexec_protocol::timestamp;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};

use super::narrow::Narrow;
use super::token::Role;
use super::{Admin, no_such_path};
use crate::execute::intake::{self, Bounds};
use crate::execute::{ResolveError, respond};
use crate::ledger::{Filter, Ledger, LedgerError, Outcome, Record, State};
use crate::registry::Ended;

/// Executions of a page: by default, and at most.
pub(super) const PAGE: usize = 50;
pub(super) const LARGEST_PAGE: usize = 500;
/// A result that an operator gives, with what it is wrapped in.
const RESOLVE_BYTES: usize = (1 << 20) + 4_096;
/// As deep as a request's JSON may be; its size is bounded.
const JSON: Limits = Limits { depth: 66, nodes: usize::MAX };

impl Admin {
    /// `/executions...`
    pub(super) async fn executions(&self, session: &mut ServerSession) -> Result<Value, Refusal> {
        if !self.has_tokens() {
            return Err(no_such_path());
        }
        let header = session.req_header();
        let (path, query) = (header.uri.path().to_owned(), header.uri.query().unwrap_or_default().to_owned());
        let is_get = header.method == Method::GET;
        let rest = path.strip_prefix("/executions").unwrap_or_default();
        let parts: Vec<&str> = rest.split('/').skip(1).collect();
        match parts[..] {
            [] | [_] if !is_get => Err(respond::method_not_allowed("GET")),
            [] => {
                self.require(Role::Reader, header)?;
                self.list(&query).await
            }
            [id] => {
                self.require(Role::Reader, header)?;
                self.show(id).await
            }
            [_, "resolve"] if header.method != Method::POST => Err(respond::method_not_allowed("POST")),
            [id, "resolve"] => {
                self.require(Role::Operator, header)?;
                let bounds = Bounds { bytes: RESOLVE_BYTES, time: self.config.get().limits.body_time };
                let body = intake::read(session, bounds, &self.memory).await?;
                self.resolve(id, &body.bytes).await
            }
            _ => Err(no_such_path()),
        }
    }

    async fn list(&self, query: &str) -> Result<Value, Refusal> {
        let mut filter = Filter { limit: PAGE, ..Filter::default() };
        let mut narrow = Narrow::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "action" => narrow.action = Some(value.into_owned()),
                "tenant" => narrow.tenant = Some(value.into_owned()),
                "search" => narrow.search = Some(value.into_owned()).filter(|search| !search.is_empty()),
                "state" => {
                    let word = State::WORDS.into_iter().find(|word| word.eq_ignore_ascii_case(&value));
                    let known = State::WORDS.join(", ");
                    filter.state = Some(word.ok_or_else(|| invalid(format!("`state` must be one of {known}")))?);
                }
                "before" => filter.before = Some(value.into_owned()),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
                    filter.limit = limit.ok_or_else(|| invalid(format!("`limit` must be 1 to {LARGEST_PAGE}")))?;
                }
                _ => {
                    let known = "`state`, `action`, `tenant`, `search`, `before` and `limit`";
                    return Err(invalid(format!("the query may have {known}")));
                }
            }
        }
        if let Some(before) = &filter.before {
            // Or a page behind nobody would be the first one again.
            self.ledger()?.find(before).await.map_err(unavailable)?.ok_or_else(no_such_execution)?;
        }
        let searching = (!narrow.is_everything()).then(|| self.searching.take());
        if matches!(searching, Some(None)) {
            return Err(Refusal::new(Code::Overloaded, "Too many searches at once").with_retry_after(1));
        }
        let (found, next) = narrow.list(&**self.ledger()?, filter).await.map_err(unavailable)?;
        Ok(json!({"executions": found.iter().map(summary).collect::<Vec<_>>(), "next": next}))
    }

    async fn show(&self, id: &str) -> Result<Value, Refusal> {
        let found = self.ledger()?.find(id).await.map_err(unavailable)?.ok_or_else(no_such_execution)?;
        let mut document = summary(&found);
        // As text: the very bytes that the receipt covers, and that were approved.
        document["payload"] = found.dispatched.and_then(|dispatched| dispatched.payload).into();
        if let State::Settled(Outcome::Done(done)) = &found.execution.state {
            document["result"] = done.result.as_str().into();
        }
        Ok(document)
    }

    /// `{"outcome": "done", "result": ..., "by": ...}` or `{"outcome": "not_executed", "by": ...}`
    async fn resolve(&self, id: &str, body: &[u8]) -> Result<Value, Refusal> {
        let body = CanonicalText::parse(body, JSON).map_err(|error| invalid(error.to_string()))?;
        let string = |name: &str| body.member(name).and_then(|text| serde_json::from_str::<String>(text).ok());
        let by = string("by").filter(|by| !by.is_empty() && by.len() <= 128 && !by.chars().any(char::is_control));
        let by = by.ok_or_else(|| invalid("`by` must say who resolves it, in 1 to 128 bytes".to_owned()))?;
        let ended = match (string("outcome").as_deref(), body.member("result")) {
            (Some("done"), Some(result)) => {
                let result = CanonicalText::parse(result.as_bytes(), JSON).map_err(|e| invalid(e.to_string()))?;
                Ended::Answered { status: None, headers: Vec::new(), result: ResultText::from(&result) }
            }
            (Some("not_executed"), None) => Ended::NotExecuted { status: 409 },
            _ => return Err(invalid("`outcome` must be `done`, with a `result`, or `not_executed`".to_owned())),
        };
        match self.gate.resolve(id, ended, &format!("operator: {by}")).await {
            Ok(_) => {
                tracing::warn!(execution_id = id, by, "an operator resolved an unknown outcome");
                self.show(id).await
            }
            Err(ResolveError::Recovering) => {
                let detail = "A recovery is trying to find out at this moment: ask again";
                Err(Refusal::new(Code::ExecutionInFlight, detail).with_execution(id).with_retry_after(1))
            }
            Err(ResolveError::NotUnknown) => {
                let found = self.ledger()?.find(id).await.map_err(unavailable)?.ok_or_else(no_such_execution)?;
                let state = found.execution.state.as_str();
                let detail = format!("The execution is {state}: only an UNKNOWN one can be resolved");
                Err(Refusal::new(Code::InvalidRequest, detail).with_status(409).with_execution(id))
            }
            Err(ResolveError::Ledger(error)) => Err(unavailable(error)),
        }
    }

    pub(super) fn ledger(&self) -> Result<&std::sync::Arc<dyn Ledger>, Refusal> {
        self.gate.ledger().ok_or_else(|| unavailable(LedgerError::Unavailable))
    }
}

fn summary(record: &Record) -> Value {
    let (status, receipt) = match &record.execution.state {
        State::Settled(Outcome::Done(done)) => (done.upstream_status, Some(done.receipt.as_str())),
        State::Expired { receipt } => (None, Some(receipt.as_str())),
        State::Settled(Outcome::NotExecuted { status }) => (Some(*status), None),
        _ => (None, None),
    };
    let dispatched = record.dispatched.as_ref();
    json!({
        "id": record.execution.id,
        "state": record.execution.state.as_str(),
        "action": record.execution.action,
        "action_hash": record.execution.action_hash,
        "tenant": record.tenant,
        "nonce": record.nonce,
        "approval_id": record.approval_id,
        "key_id": record.execution.key_id,
        "caller": record.caller,
        "claimed_at": timestamp::print(record.claimed_at),
        "settled_at": record.settled_at.map(timestamp::print),
        "settled_by": record.settled_by,
        "route": dispatched.map(|dispatched| &dispatched.route),
        "recovery": dispatched.map(|dispatched| dispatched.policy.as_str()),
        "status": status,
        "receipt": receipt,
    })
}

pub(super) fn invalid(detail: String) -> Refusal {
    Refusal::new(Code::InvalidRequest, detail)
}

fn no_such_execution() -> Refusal {
    Refusal::new(Code::NotFound, "No execution has this id")
}

pub(super) fn unavailable(_: LedgerError) -> Refusal {
    Refusal::new(Code::LedgerUnavailable, "The ledger cannot be read or written now").with_retry_after(1)
}
