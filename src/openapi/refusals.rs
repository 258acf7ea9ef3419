//! Which refusals an operation can answer with, and what a client makes of each.

use std::collections::BTreeMap;

use openexec_protocol::refusal::Code;
use serde_json::{Map, Value, json};

use super::{PROBLEM, hex_digest};

/// Operations, each kind with the refusals of the one before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Any request to one of our paths.
    Any,
    /// One with a JSON body.
    Body,
    /// `POST /execute`.
    Execute,
}

/// The simplest operation of the main listener that meets this code (`None`: other paths do), and what it means. A new
/// code does not compile before it has a line here.
fn about(code: Code) -> (Option<Kind>, &'static str) {
    use Code as C;
    let (kind, meaning) = match code {
        C::BadHttp => (Kind::Any, "HTTP framing with two readings. The connection closes."),
        C::RequestTimeout => (Kind::Any, "The header or the body took too long. The connection closes."),
        C::HeadersTooLarge => (Kind::Any, "The header is over `limits.header_bytes` or has more than 100 fields."),
        C::MisdirectedHost => (Kind::Any, "Demo mode by default answers to loopback names as `Host` only."),
        C::MethodNotAllowed => (Kind::Any, "The path has other methods: see `Allow`."),
        C::Overloaded => {
            (Kind::Any, "Too many connections, bodies or executions at once. Nothing was done: ask again.")
        }
        C::BodyTooLarge => (Kind::Body, "The body is over its limit."),
        C::UnsupportedMediaType => (Kind::Body, "Only `Content-Type: application/json`, without `Content-Encoding`."),
        C::InvalidRequest => (Kind::Body, "The body is no such object; `detail` says which member is wrong, and how."),
        C::UnknownAction => (Kind::Execute, "No action has this name."),
        C::InvalidPayload => (Kind::Execute, "The payload does not fit the action; `detail` says where."),
        C::CallerUnauthenticated => (Kind::Execute, "Callers must show who they are, and this one did not."),
        C::CallerNotAllowed => (Kind::Execute, "This caller may not do this."),
        C::NotConfigured => (Kind::Execute, "ClawShield mode without its key or tenant refuses everything."),
        C::ApprovalMissing => (Kind::Execute, "ClawShield mode wants an `approval_artifact`."),
        C::ApprovalHashMismatch => (Kind::Execute, "The approval is for another action or payload."),
        C::ApprovalSignatureInvalid => (Kind::Execute, "The approval is not authentic, or a member has no valid form."),
        C::ApprovalTenantMismatch => (Kind::Execute, "The approval is for a tenant that this server does not act for."),
        C::ApprovalIssuerUnknown => (Kind::Execute, "The approval's issuer is not known."),
        C::ApprovalExpired => (Kind::Execute, "The approval is too old: get a new one."),
        C::ApprovalNotYetValid => (Kind::Execute, "The approval was issued in the future, beyond the clock skew."),
        C::ApprovalLifetimeTooLong => (Kind::Execute, "The approval was signed for a longer time than is allowed."),
        C::ApprovalTimestampInvalid => (Kind::Execute, "The approval's time is no time."),
        C::ApprovalAlreadyUsed => (Kind::Execute, "Another nonce used the approval: get a new one."),
        C::ApprovalPredatesLedger => (Kind::Execute, "The ledger cannot know whether it was used: get a new one."),
        C::ActionNotAllowed => (Kind::Execute, "The action is not in the execution allow-list."),
        C::ExecutionInFlight => (Kind::Execute, "It still runs: ask again with the same request."),
        C::NotExecuted => {
            (Kind::Execute, "It is certain that it was not executed, and never will be. Nonce and approval stay used.")
        }
        C::OutcomeUnknown => (
            Kind::Execute,
            "It was dispatched, and nobody knows what came of it. The same request gets the verdict once there is one; \
             do not send it under another nonce before that.",
        ),
        C::ResultExpired => (Kind::Execute, "Executed long ago: the result is no longer kept."),
        C::NonceReused => (Kind::Execute, "The nonce belongs to another request."),
        C::RateLimited => (Kind::Execute, "Over a configured rate: ask again."),
        C::InternalError => (Kind::Execute, "A defect of this server; `detail` has an id to find it in the log."),
        C::UpstreamUnreachable => {
            (Kind::Execute, "No connection to the service: nothing was sent or stored. Ask again.")
        }
        C::LedgerUnavailable => (Kind::Execute, "Nothing can be stored now, and nothing was dispatched. Ask again."),
        C::ShuttingDown => (Kind::Execute, "The server is stopping, and nothing was dispatched. Ask again."),
        C::NotFound => return (None, "No such path."),
        C::UpstreamTimeout => return (None, "The service took too long with a request that was let through."),
    };
    (Some(kind), meaning)
}

/// All that an operation of the main listener can be refused with, by status.
pub(super) fn of(kind: Kind) -> Map<String, Value> {
    let met = Code::all().filter(|code| about(*code).0.is_some_and(|least| least <= kind));
    // The one whose dispatch it was is told with another status than those who ask later.
    let late = (kind == Kind::Execute).then_some((Code::OutcomeUnknown, 504));
    responses(met.map(|code| (code, code.status())).chain(late))
}

/// These, by status.
pub(super) fn responses(refusals: impl IntoIterator<Item = (Code, u16)>) -> Map<String, Value> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for (code, status) in refusals {
        by_status.entry(status).or_default().push(code);
    }
    by_status.into_iter().map(|(status, codes)| (status.to_string(), response(status, &codes))).collect()
}

fn response(status: u16, codes: &[Code]) -> Value {
    let lines: Vec<_> = codes.iter().map(|code| format!("- `{code}`: {}", about(*code).1)).collect();
    let words: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
    let first = codes[0];
    let example = json!({
        "type": format!("urn:openexec:refusal:{first}"),
        "title": first.title(),
        "status": status,
        "detail": about(first).1,
        "code": first.as_str(),
    });
    let schema = json!({
        "allOf": [super::reference("Problem")],
        "properties": {"status": {"const": status}, "code": {"enum": words}},
    });
    json!({
        "description": lines.join("\n"),
        "headers": headers(codes),
        "content": {PROBLEM: {"schema": schema, "example": example}},
    })
}

/// A header is required where each of the codes has it.
fn headers(codes: &[Code]) -> Map<String, Value> {
    use Code as C;
    let mut headers = Map::new();
    let mut add = |name: &str, having: &[Code], schema: Value, description: &str| {
        if codes.iter().any(|code| having.contains(code)) {
            let required = codes.iter().all(|code| having.contains(code));
            let header = json!({"description": description, "required": required, "schema": schema});
            headers.insert(name.to_owned(), header);
        }
    };
    let again = [
        C::UpstreamUnreachable,
        C::LedgerUnavailable,
        C::Overloaded,
        C::ShuttingDown,
        C::RateLimited,
        C::ExecutionInFlight,
    ];
    let seconds = json!({"type": "integer", "minimum": 0});
    add("Retry-After", &again, seconds, "Seconds after which asking again may help");
    add("Allow", &[C::MethodNotAllowed], json!({"type": "string"}), "The methods that there are");
    add("WWW-Authenticate", &[C::CallerUnauthenticated], json!({"type": "string"}), "How to show who one is");
    let id = json!({"type": "string"});
    let settled = [C::NotExecuted, C::OutcomeUnknown, C::ResultExpired];
    add("OpenExec-Execution-Id", &settled, id, "The execution that it is about");
    headers
}

/// The schema of every refusal.
pub(super) fn problem() -> Value {
    let lines: Vec<_> = Code::all().map(|code| format!("- `{code}`: {}", about(code).1)).collect();
    let code = json!({
        "type": "string",
        "enum": Code::all().map(Code::as_str).collect::<Vec<_>>(),
        "description": format!("The reason, of a closed set.\n\n{}", lines.join("\n")),
    });
    json!({
        "type": "object",
        "description": "A refusal (RFC 9457).",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string", "format": "uri", "description": "`urn:openexec:refusal:` and the code"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "description": "A sentence for people. It repeats nothing secret."},
            "code": code,
            "execution_id": {"type": "string", "description": "The execution that it is about"},
            "receipt": hex_digest("The receipt of a result that is no longer kept"),
            "retry_after": {"type": "integer", "minimum": 0, "description": "As the header `Retry-After`"},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_document_under_its_status() {
        let execute = of(Kind::Execute);
        for code in Code::all().filter(|code| about(*code).0.is_some()) {
            let schema = &execute[&code.status().to_string()]["content"][PROBLEM]["schema"];
            let words = schema["properties"]["code"]["enum"].as_array().unwrap();
            assert!(words.contains(&code.as_str().into()), "{code}");
        }
        assert!(execute["504"]["description"].as_str().unwrap().contains("outcome_unknown"));
        let read = of(Kind::Any);
        assert_eq!(read["405"]["headers"]["Allow"]["required"], true);
        assert_eq!(read["503"]["headers"]["Retry-After"]["required"], true);
        assert!(!read.contains_key("415"));
    }
}
