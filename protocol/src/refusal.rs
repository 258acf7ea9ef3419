//! The closed set of reasons for a no.

use std::fmt;

/// Why a request was refused: the answer's `code`, and the `reason` label of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The action is in no registry.
    UnknownAction,
    /// The action's handler or schema found the payload wrong.
    InvalidPayload,
    /// Callers are configured, and this one did not show who it is.
    CallerUnauthenticated,
    /// This caller may not do this.
    CallerNotAllowed,
    /// HTTP framing that has two readings.
    BadHttp,
    /// Nothing to check approvals with.
    NotConfigured,
    /// No approval came with the request.
    ApprovalMissing,
    /// The approval is for something else.
    ApprovalHashMismatch,
    /// The approval is not authentic.
    ApprovalSignatureInvalid,
    /// The approval is for another tenant.
    ApprovalTenantMismatch,
    /// The approval's issuer is not known.
    ApprovalIssuerUnknown,
    /// The approval is too old.
    ApprovalExpired,
    /// The approval is from the future.
    ApprovalNotYetValid,
    /// The approval was signed for too long a time.
    ApprovalLifetimeTooLong,
    /// The approval's `issued_at` is no time.
    ApprovalTimestampInvalid,
    /// Another execution consumed the approval.
    ApprovalAlreadyUsed,
    /// The ledger cannot know whether the approval was used.
    ApprovalPredatesLedger,
    /// The action is registered but not allowed.
    ActionNotAllowed,
    /// No such path.
    NotFound,
    /// Not with this method.
    MethodNotAllowed,
    /// The header or the body took too long.
    RequestTimeout,
    /// It is still running.
    ExecutionInFlight,
    /// It is settled that it was not executed.
    NotExecuted,
    /// It was dispatched, and whether it happened cannot be known.
    OutcomeUnknown,
    /// The result is no longer kept.
    ResultExpired,
    /// The body is over its limit.
    BodyTooLarge,
    /// Not `application/json`, or an encoded body.
    UnsupportedMediaType,
    /// The header is over its limit.
    HeadersTooLarge,
    /// The `Host` is not one of this listener's.
    MisdirectedHost,
    /// The body is no request.
    InvalidRequest,
    /// The nonce belongs to another request.
    NonceReused,
    /// Over a configured rate.
    RateLimited,
    /// A defect of this server.
    InternalError,
    /// No connection to the upstream could be made.
    UpstreamUnreachable,
    /// The ledger cannot store anything now.
    LedgerUnavailable,
    /// Too many executions at once.
    Overloaded,
    /// The server is stopping.
    ShuttingDown,
    /// The upstream took too long (passthrough).
    UpstreamTimeout,
}

/// A code with its wire name, status and title, in the order of the protocol's table.
const TABLE: [(Code, &str, u16, &str); 38] = [
    (Code::UnknownAction, "unknown_action", 400, "Unknown action"),
    (Code::InvalidPayload, "invalid_payload", 400, "Invalid payload"),
    (Code::CallerUnauthenticated, "caller_unauthenticated", 401, "Caller not authenticated"),
    (Code::CallerNotAllowed, "caller_not_allowed", 403, "Caller not allowed"),
    (Code::BadHttp, "bad_http", 400, "Bad HTTP framing"),
    (Code::NotConfigured, "not_configured", 403, "Not configured"),
    (Code::ApprovalMissing, "approval_missing", 403, "Approval missing"),
    (Code::ApprovalHashMismatch, "approval_hash_mismatch", 403, "Approval is for another action"),
    (Code::ApprovalSignatureInvalid, "approval_signature_invalid", 403, "Approval not authentic"),
    (Code::ApprovalTenantMismatch, "approval_tenant_mismatch", 403, "Approval is for another tenant"),
    (Code::ApprovalIssuerUnknown, "approval_issuer_unknown", 403, "Approval issuer unknown"),
    (Code::ApprovalExpired, "approval_expired", 403, "Approval expired"),
    (Code::ApprovalNotYetValid, "approval_not_yet_valid", 403, "Approval not yet valid"),
    (Code::ApprovalLifetimeTooLong, "approval_lifetime_too_long", 403, "Approval lifetime too long"),
    (Code::ApprovalTimestampInvalid, "approval_timestamp_invalid", 403, "Approval timestamp invalid"),
    (Code::ApprovalAlreadyUsed, "approval_already_used", 403, "Approval already used"),
    (Code::ApprovalPredatesLedger, "approval_predates_ledger", 403, "Approval predates the ledger"),
    (Code::ActionNotAllowed, "action_not_allowed", 403, "Action not allowed"),
    (Code::NotFound, "not_found", 404, "Not found"),
    (Code::MethodNotAllowed, "method_not_allowed", 405, "Method not allowed"),
    (Code::RequestTimeout, "request_timeout", 408, "Request timeout"),
    (Code::ExecutionInFlight, "execution_in_flight", 409, "Execution in flight"),
    (Code::NotExecuted, "not_executed", 409, "Not executed"),
    (Code::OutcomeUnknown, "outcome_unknown", 409, "Outcome unknown"),
    (Code::ResultExpired, "result_expired", 410, "Result expired"),
    (Code::BodyTooLarge, "body_too_large", 413, "Body too large"),
    (Code::UnsupportedMediaType, "unsupported_media_type", 415, "Unsupported media type"),
    (Code::HeadersTooLarge, "headers_too_large", 431, "Headers too large"),
    (Code::MisdirectedHost, "misdirected_host", 421, "Misdirected host"),
    (Code::InvalidRequest, "invalid_request", 422, "Invalid request"),
    (Code::NonceReused, "nonce_reused", 422, "Nonce reused"),
    (Code::RateLimited, "rate_limited", 429, "Rate limited"),
    (Code::InternalError, "internal_error", 500, "Internal error"),
    (Code::UpstreamUnreachable, "upstream_unreachable", 502, "Upstream unreachable"),
    (Code::LedgerUnavailable, "ledger_unavailable", 503, "Ledger unavailable"),
    (Code::Overloaded, "overloaded", 503, "Overloaded"),
    (Code::ShuttingDown, "shutting_down", 503, "Shutting down"),
    (Code::UpstreamTimeout, "upstream_timeout", 504, "Upstream timeout"),
];

impl Code {
    /// Every code there is.
    pub fn all() -> impl ExactSizeIterator<Item = Code> {
        TABLE.iter().map(|row| row.0)
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// The HTTP status, where the refusal does not bring its own.
    pub fn status(self) -> u16 {
        self.row().2
    }

    /// The problem's title (RFC 9457).
    pub fn title(self) -> &'static str {
        self.row().3
    }

    /// The place in [`Code::all`].
    pub fn index(self) -> usize {
        self as usize
    }

    fn row(self) -> &'static (Code, &'static str, u16, &'static str) {
        &TABLE[self.index()]
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal as the client is told it. Never holds a payload, a result or a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// The class.
    pub code: Code,
    /// The HTTP status; the code's own but for `outcome_unknown` and `not_executed`.
    pub status: u16,
    /// A sentence for people.
    pub detail: String,
    /// The execution that it is about.
    pub execution_id: Option<String>,
    /// The receipt of a result that is no longer kept.
    pub receipt: Option<String>,
    /// Seconds after which asking again may help.
    pub retry_after: Option<u64>,
    /// The methods that there are (RFC 9110, `Allow`).
    pub allow: Option<&'static str>,
}

impl Refusal {
    /// With the code's own status.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Refusal {
            code,
            status: code.status(),
            detail: detail.into(),
            execution_id: None,
            receipt: None,
            retry_after: None,
            allow: None,
        }
    }

    /// With another status.
    pub fn with_status(self, status: u16) -> Self {
        Refusal { status, ..self }
    }

    /// About this execution.
    pub fn with_execution(self, id: &str) -> Self {
        Refusal { execution_id: Some(id.to_owned()), ..self }
    }

    /// With a hint when to ask again, in seconds.
    pub fn with_retry_after(self, seconds: u64) -> Self {
        Refusal { retry_after: Some(seconds), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_codes_and_its_words_are_distinct() {
        for (index, code) in Code::all().enumerate() {
            assert_eq!(code.index(), index, "{code}");
        }
        let words: std::collections::HashSet<_> = Code::all().map(Code::as_str).collect();
        assert_eq!(words.len(), Code::all().len());
    }

    #[test]
    fn a_refusal_is_what_its_code_says_and_what_is_added() {
        for code in Code::all() {
            assert!((400..600).contains(&code.status()) && code.to_string() == code.as_str(), "{code}");
        }
        let titles: std::collections::HashSet<_> = Code::all().map(Code::title).collect();
        assert_eq!((titles.len(), Code::RateLimited.title()), (Code::all().len(), "Rate limited"));
        let refusal = Refusal::new(Code::RateLimited, "slowly");
        assert_eq!((refusal.status, refusal.to_string().as_str()), (429, "rate_limited: slowly"));
        let more = refusal.clone().with_status(409).with_execution("e").with_retry_after(7);
        assert_eq!((more.status, more.execution_id.as_deref(), more.retry_after), (409, Some("e"), Some(7)));
        assert_eq!((more.code, more.detail), (refusal.code, refusal.detail));
    }
}
