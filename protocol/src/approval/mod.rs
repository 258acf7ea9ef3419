//! Approvals: signed somewhere else, checked here.
//!
//! - `keys`: what they are signed and verified with
//! - `signed`: the text under a signature
//! - `mint`: what an approver does
//! - `verify`: what a verifier does

mod keys;
mod mint;
mod signed;
mod verify;

pub use keys::{HmacKey, Key, KeyError, Material, PrivateKey, PublicKey};
pub use mint::{MintError, Terms, mint, mint_ed25519};
pub use verify::{
    Authentic, Fresh, HMAC_LIFETIME_SECONDS, MOST_KEYS_TRIED, STEPS, Step, Verifier, authenticate, explain,
};

use std::fmt;

use crate::canonical::CanonicalText;
use crate::refusal::{Code, Refusal};

/// The only issuer of the HMAC form, and what an absent `issued_by` means.
pub const ISSUER: &str = "clawshield";

/// SHA-256 of an action and its payload; see [`crate::request::action_hash`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ActionHash {
    hex: [u8; 64],
}

impl ActionHash {
    pub(crate) fn of_digest(digest: [u8; 32]) -> Self {
        ActionHash { hex: lower_hex(digest) }
    }

    /// 64 lower-case hex digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.hex).expect("hex is ASCII")
    }

    /// A hash that somebody computed elsewhere.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.as_bytes().try_into().ok()?;
        text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some(ActionHash { hex })
    }
}

impl fmt::Debug for ActionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

pub(crate) fn lower_hex(digest: [u8; 32]) -> [u8; 64] {
    let mut hex = [0; 64];
    hex::encode_to_slice(digest, &mut hex).expect("64 digits for 32 bytes");
    hex
}

/// An approval as it was sent. It proves nothing before it is [`authenticate`]d.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Artifact {
    /// The approver's name for this approval.
    pub approval_id: String,
    /// What it approves.
    pub action_hash: String,
    /// Over the fields that the form covers.
    pub signature: String,
    /// When it was signed, as signed.
    pub issued_at: String,
    /// For whom.
    pub tenant_id: String,
    /// By whom; the HMAC form only.
    pub issued_by: Option<String>,
    /// Until when; the Ed25519 form only.
    pub expires_at: Option<String>,
    /// Which key; optional in both forms.
    pub kid: Option<String>,
}

/// How an artifact is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// HMAC-SHA256 with a shared secret.
    Hmac,
    /// Ed25519 with the approver's private key.
    Ed25519,
}

impl Form {
    /// The environment variable that holds a key of it.
    pub fn variable(self) -> &'static str {
        match self {
            Form::Hmac => "CLAWSHIELD_SECRET_KEY",
            Form::Ed25519 => "CLAWSHIELD_PUBLIC_KEY",
        }
    }
}

impl Artifact {
    /// The form that the members present imply, or `None` for members of both.
    pub fn form(&self) -> Option<Form> {
        match (&self.issued_by, &self.expires_at) {
            (_, None) => Some(Form::Hmac),
            (None, Some(_)) => Some(Form::Ed25519),
            (Some(_), Some(_)) => None,
        }
    }

    /// The artifact as a client puts it into `approval_artifact`.
    pub fn to_json(&self) -> String {
        let optional = |value: &Option<String>| value.clone();
        let members = [
            ("action_hash", Some(self.action_hash.clone())),
            ("approval_id", Some(self.approval_id.clone())),
            ("expires_at", optional(&self.expires_at)),
            ("issued_at", Some(self.issued_at.clone())),
            ("issued_by", optional(&self.issued_by)),
            ("kid", optional(&self.kid)),
            ("signature", Some(self.signature.clone())),
            ("tenant_id", Some(self.tenant_id.clone())),
        ];
        let printed: Vec<String> = members
            .into_iter()
            .filter_map(|(name, value)| Some(format!("\"{name}\":{}", CanonicalText::string(&value?).as_str())))
            .collect();
        format!("{{{}}}", printed.join(","))
    }
}

/// Why an approval does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Nothing to check it with: the variable that is not set.
    #[error("{0} not configured")]
    NotConfigured(&'static str),
    /// It approves something else.
    #[error("Action hash mismatch: approval does not match this request")]
    HashMismatch,
    /// Not signed by the holder of the key, or not in the grammar that can be signed.
    #[error("Invalid signature: approval artifact is not authentic")]
    Signature,
    /// For somebody else.
    #[error("Tenant mismatch")]
    Tenant,
    /// By somebody else.
    #[error("Unknown issuer: {0}")]
    Issuer(String),
    /// Its key approves nothing new any more.
    #[error("Invalid signature: its key is retired and approves nothing new")]
    Retired,
    /// `issued_at` or `expires_at` is no time.
    #[error("Invalid {0} timestamp")]
    Timestamp(&'static str),
    /// Too old.
    #[error("Approval artifact expired")]
    Expired,
    /// From the future.
    #[error("Approval artifact issued in the future, beyond the allowed clock skew")]
    NotYetValid,
    /// Signed for longer than is allowed.
    #[error("Approval artifact is valid for longer than is allowed")]
    Lifetime,
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        let code = match denial {
            Denial::NotConfigured(_) => Code::NotConfigured,
            Denial::HashMismatch => Code::ApprovalHashMismatch,
            Denial::Signature | Denial::Retired => Code::ApprovalSignatureInvalid,
            Denial::Tenant => Code::ApprovalTenantMismatch,
            Denial::Issuer(_) => Code::ApprovalIssuerUnknown,
            Denial::Timestamp(_) => Code::ApprovalTimestampInvalid,
            Denial::Expired => Code::ApprovalExpired,
            Denial::NotYetValid => Code::ApprovalNotYetValid,
            Denial::Lifetime => Code::ApprovalLifetimeTooLong,
        };
        Refusal::new(code, denial.to_string())
    }
}

/// `[A-Za-z0-9._~-]{1,128}`: what an approval's id and a tenant may be.
pub fn is_identifier(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_artifact_reads_back() {
        let whole = Artifact {
            approval_id: "a".to_owned(),
            action_hash: "b".to_owned(),
            signature: "c".to_owned(),
            issued_at: "d".to_owned(),
            tenant_id: "e".to_owned(),
            issued_by: Some("f".to_owned()),
            expires_at: Some("\"g\u{e9}".to_owned()),
            kid: Some("h".to_owned()),
        };
        let least = Artifact { issued_by: None, expires_at: None, kid: None, ..whole.clone() };
        for artifact in [whole, least] {
            assert_eq!(Artifact::parse(artifact.to_json().as_bytes(), Default::default()), Ok(artifact));
        }
    }

    #[test]
    fn a_hash_is_64_lower_case_digits() {
        let hash = ActionHash::of_digest([0xa9; 32]);
        assert_eq!((ActionHash::parse(hash.as_str()), format!("{hash:?}")), (Some(hash), "a9".repeat(32)));
        for other in ["", &"a".repeat(63), &"a".repeat(65), &"A".repeat(64), &"g".repeat(64)] {
            assert_eq!(ActionHash::parse(other), None, "{other}");
        }
    }
}
