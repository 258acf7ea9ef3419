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

impl AdminTokens {
    pub(super) fn any(&self) -> bool {
        self.operator.is_some() || self.reader.is_some()
    }

    /// Whether the caller has this role.
    pub(super) fn require(&self, needed: Role, headers: &HeaderMap) -> Result<(), Refusal> {
        let presented = headers.get("authorization").and_then(|value| value.to_str().ok()).and_then(bearer);
        let presented = presented
            .ok_or_else(|| Refusal::new(Code::CallerUnauthenticated, "An admin token is needed, as a bearer token"))?;
        let is = |token: &Option<SecretString>| token.as_ref().is_some_and(|t| same(t.expose_secret(), presented));
        let role = if is(&self.operator) {
            Role::Operator
        } else if is(&self.reader) {
            Role::Reader
        } else {
            return Err(Refusal::new(Code::CallerUnauthenticated, "The admin token is not one of this server's"));
        };
        if role < needed {
            return Err(Refusal::new(Code::CallerNotAllowed, "This admin token may read, and not resolve"));
        }
        Ok(())
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// In a time that depends on neither: hashes have one length.
fn same(a: &str, b: &str) -> bool {
    Sha256::digest(a).ct_eq(&Sha256::digest(b)).into()
}
