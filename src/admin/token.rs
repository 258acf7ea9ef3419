//! Who may ask the admin listener for more than probes and metrics.

use http::HeaderMap;
use openexec_protocol::refusal::{Code, Refusal};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The tokens; with neither, nothing but probes and metrics is served.
#[derive(Clone, Debug, Default)]
pub struct AdminTokens {
    /// Reads executions, and resolves them.
    pub operator: Option<SecretString>,
    /// Reads executions.
    pub reader: Option<SecretString>,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Reader,
    Operator,
}

/// SHA-256 of a secret: all of one length, so that comparing them takes a time that depends on neither.
#[derive(Clone, Copy)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(secret: &str) -> Self {
        Fingerprint(Sha256::digest(secret).into())
    }

    pub(super) fn is(&self, other: &Fingerprint) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Role {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::Operator => "operator",
        }
    }

    pub(super) fn allows(self, needed: Role) -> Result<(), Refusal> {
        if self >= needed {
            return Ok(());
        }
        Err(Refusal::new(Code::CallerNotAllowed, "This admin token may read, and not resolve"))
    }
}

impl AdminTokens {
    pub(super) fn any(&self) -> bool {
        self.operator.is_some() || self.reader.is_some()
    }

    /// What whoever has the token with this fingerprint may do.
    pub(super) fn role(&self, presented: &Fingerprint) -> Option<Role> {
        let is = |token: &Option<SecretString>| {
            token.as_ref().is_some_and(|token| Fingerprint::of(token.expose_secret()).is(presented))
        };
        // Both are looked at, whichever it is.
        match (is(&self.operator), is(&self.reader)) {
            (true, _) => Some(Role::Operator),
            (false, true) => Some(Role::Reader),
            (false, false) => None,
        }
    }
}

/// The token of the header `Authorization`, if it has one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get("authorization")?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
