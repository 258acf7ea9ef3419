//! Approvals: signed somewhere else, checked here.
//!
//! The order of the checks is the contract's, and it is written once, in [`STEPS`]: the server stops at the first
//! that fails, [`explain`] goes through all of them.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::canonical::CanonicalText;
use crate::refusal::{Code, Refusal};
use crate::timestamp;

/// Seconds for which an approval of the HMAC form is good; exactly this age is still valid.
pub const HMAC_LIFETIME_SECONDS: i64 = 300;
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A shared secret. It is never printed.
#[derive(Clone)]
pub struct HmacKey {
    keyed: Hmac<Sha256>,
}

impl HmacKey {
    /// Any length, as RFC 2104 allows; less than 32 bytes is weak.
    pub fn new(secret: &[u8]) -> Self {
        HmacKey { keyed: Hmac::new_from_slice(secret).expect("HMAC takes keys of any length") }
    }

    fn sign(&self, text: &SignedText) -> [u8; 64] {
        let mut mac = self.keyed.clone();
        mac.update(text.0.as_bytes());
        lower_hex(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey(..)")
    }
}

/// What approvals are checked against.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// The only tenant that is acted for.
    pub tenant_id: String,
    /// Verifies the HMAC form; without it that form is refused.
    pub hmac_key: Option<HmacKey>,
}

/// One of the checks that make an approval authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It names exactly this action and payload.
    Hash,
    /// Whoever holds the key signed exactly these fields.
    Signature,
    /// It is for this tenant.
    Tenant,
    /// Its issuer is known.
    Issuer,
}

impl Step {
    /// What the step asks, for people.
    pub fn question(self) -> &'static str {
        match self {
            Step::Hash => "the action hash is this request's",
            Step::Signature => "the signature is authentic",
            Step::Tenant => "the tenant is this server's",
            Step::Issuer => "the issuer is known",
        }
    }
}

/// The checks in their order.
pub const STEPS: [Step; 4] = [Step::Hash, Step::Signature, Step::Tenant, Step::Issuer];

/// Proof that an approval of this action was signed for this tenant. Whether it is still good is another question.
#[derive(Clone, Debug)]
pub struct Authentic {
    approval_id: String,
    tenant_id: String,
    issued_at: String,
}

impl Authentic {
    /// The approver's name for this approval.
    pub fn approval_id(&self) -> &str {
        &self.approval_id
    }

    /// The tenant that it was signed for.
    pub fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// Checks the age against the verifier's clock.
    ///
    /// # Errors
    /// A time that is none, is further ahead than `skew`, or is past.
    pub fn check_time(&self, now: DateTime<Utc>, skew: TimeDelta) -> Result<Fresh, Denial> {
        let issued_at = timestamp::parse(&self.issued_at).ok_or(Denial::Timestamp)?;
        if issued_at - now > skew {
            return Err(Denial::NotYetValid);
        }
        if now - issued_at > TimeDelta::seconds(HMAC_LIFETIME_SECONDS) {
            return Err(Denial::Expired);
        }
        Ok(Fresh { issued_at })
    }
}

/// Proof that an authentic approval is neither expired nor from the future.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    issued_at: DateTime<Utc>,
}

impl Fresh {
    /// When it was signed.
    pub fn issued_at(&self) -> DateTime<Utc> {
        self.issued_at
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
    /// `issued_at` is no time.
    #[error("Invalid issued_at timestamp")]
    Timestamp,
    /// Too old.
    #[error("Approval artifact expired")]
    Expired,
    /// From the future.
    #[error("Approval artifact issued in the future, beyond the allowed clock skew")]
    NotYetValid,
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        let code = match denial {
            Denial::NotConfigured(_) => Code::NotConfigured,
            Denial::HashMismatch => Code::ApprovalHashMismatch,
            Denial::Signature => Code::ApprovalSignatureInvalid,
            Denial::Tenant => Code::ApprovalTenantMismatch,
            Denial::Issuer(_) => Code::ApprovalIssuerUnknown,
            Denial::Timestamp => Code::ApprovalTimestampInvalid,
            Denial::Expired => Code::ApprovalExpired,
            Denial::NotYetValid => Code::ApprovalNotYetValid,
        };
        Refusal::new(code, denial.to_string())
    }
}

/// Checks everything about an approval but its age and its use.
///
/// # Errors
/// The first of [`STEPS`] that fails.
pub fn authenticate(artifact: &Artifact, hash: &ActionHash, verifier: &Verifier) -> Result<Authentic, Denial> {
    for step in STEPS {
        check(step, artifact, hash, verifier)?;
    }
    Ok(Authentic {
        approval_id: artifact.approval_id.clone(),
        tenant_id: artifact.tenant_id.clone(),
        issued_at: artifact.issued_at.clone(),
    })
}

/// Every step with its outcome, for people who ask why.
pub fn explain(artifact: &Artifact, hash: &ActionHash, verifier: &Verifier) -> Vec<(Step, Result<(), Denial>)> {
    STEPS.into_iter().map(|step| (step, check(step, artifact, hash, verifier))).collect()
}

fn check(step: Step, artifact: &Artifact, hash: &ActionHash, verifier: &Verifier) -> Result<(), Denial> {
    let holds = |condition: bool, denial: Denial| if condition { Ok(()) } else { Err(denial) };
    match step {
        Step::Hash => holds(same(hash.as_str(), &artifact.action_hash), Denial::HashMismatch),
        Step::Signature => check_signature(artifact, verifier),
        Step::Tenant => holds(same(&verifier.tenant_id, &artifact.tenant_id), Denial::Tenant),
        Step::Issuer => match artifact.issued_by.as_deref() {
            None | Some(ISSUER) => Ok(()),
            Some(other) => Err(Denial::Issuer(other.to_owned())),
        },
    }
}

fn check_signature(artifact: &Artifact, verifier: &Verifier) -> Result<(), Denial> {
    // No key has an id yet, so whichever is named is unknown.
    if artifact.kid.is_some() {
        return Err(Denial::Signature);
    }
    match artifact.form() {
        Some(Form::Hmac) => {}
        Some(Form::Ed25519) => return Err(Denial::NotConfigured("CLAWSHIELD_PUBLIC_KEY")),
        None => return Err(Denial::Signature),
    }
    let key = verifier.hmac_key.as_ref().ok_or(Denial::NotConfigured("CLAWSHIELD_SECRET_KEY"))?;
    let text = SignedText::of(artifact).ok_or(Denial::Signature)?;
    let expected = key.sign(&text);
    if bool::from(expected[..].ct_eq(artifact.signature.as_bytes())) { Ok(()) } else { Err(Denial::Signature) }
}

/// Compares without telling by its time where the first difference is.
fn same(ours: &str, theirs: &str) -> bool {
    ours.as_bytes().ct_eq(theirs.as_bytes()).into()
}

/// The text under an HMAC signature. Fields joined by plain text are only unambiguous when none can hold the
/// separator, so each must match its grammar first. Then one text is of one approval only, and single use can be counted
/// by the approval's id alone.
struct SignedText(String);

impl SignedText {
    fn of(artifact: &Artifact) -> Option<Self> {
        SignedText::join(&artifact.approval_id, &artifact.action_hash, &artifact.tenant_id, &artifact.issued_at)
    }

    fn join(approval_id: &str, action_hash: &str, tenant_id: &str, issued_at: &str) -> Option<Self> {
        let fits = is_identifier(approval_id) && is_identifier(tenant_id) && ActionHash::parse(action_hash).is_some();
        fits.then(|| SignedText([approval_id, action_hash, tenant_id, issued_at].join(":")))
    }
}

/// `[A-Za-z0-9._~-]{1,128}`: what an approval's id and a tenant may be.
pub fn is_identifier(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-'))
}

/// What an approver decides beside the action itself.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// New for each approval; a UUID is a good one.
    pub approval_id: &'a str,
    /// For whom.
    pub tenant_id: &'a str,
    /// When; see [`timestamp::print`].
    pub issued_at: &'a str,
}

/// Why nothing was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// It could not be told apart from another approval.
    #[error("`{0}` must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -")]
    Identifier(&'static str),
    /// No verifier would read it.
    #[error("`issued_at` is no ISO 8601 time")]
    IssuedAt,
}

/// Signs an approval of the HMAC form.
///
/// # Errors
/// Terms that no verifier would accept.
pub fn mint(key: &HmacKey, hash: &ActionHash, terms: &Terms<'_>) -> Result<Artifact, MintError> {
    if !is_identifier(terms.approval_id) {
        return Err(MintError::Identifier("approval_id"));
    }
    timestamp::parse(terms.issued_at).ok_or(MintError::IssuedAt)?;
    let text = SignedText::join(terms.approval_id, hash.as_str(), terms.tenant_id, terms.issued_at)
        .ok_or(MintError::Identifier("tenant_id"))?;
    let signature = key.sign(&text);
    Ok(Artifact {
        approval_id: terms.approval_id.to_owned(),
        action_hash: hash.as_str().to_owned(),
        signature: std::str::from_utf8(&signature).expect("hex is ASCII").to_owned(),
        issued_at: terms.issued_at.to_owned(),
        tenant_id: terms.tenant_id.to_owned(),
        issued_by: Some(ISSUER.to_owned()),
        expires_at: None,
        kid: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifier() -> Verifier {
        Verifier { tenant_id: "t".to_owned(), hmac_key: Some(HmacKey::new(b"k")) }
    }

    fn artifact(approval_id: &str) -> Artifact {
        let terms = Terms { approval_id, tenant_id: "t", issued_at: "2026-02-17T10:00:00Z" };
        mint(&HmacKey::new(b"k"), &hash(), &terms).unwrap()
    }

    fn hash() -> ActionHash {
        ActionHash::of_digest([7; 32])
    }

    #[test]
    fn what_was_minted_is_authentic() {
        let authentic = authenticate(&artifact("a"), &hash(), &verifier()).unwrap();
        assert_eq!((authentic.approval_id(), authentic.tenant_id()), ("a", "t"));
    }

    #[test]
    fn nothing_ambiguous_is_minted_or_accepted() {
        let terms = |approval_id, tenant_id| Terms { approval_id, tenant_id, issued_at: "2026-02-17T10:00:00Z" };
        let key = HmacKey::new(b"k");
        let long = "a".repeat(129);
        for id in ["", "a:b", "a b", "é", long.as_str()] {
            assert_eq!(mint(&key, &hash(), &terms(id, "t")), Err(MintError::Identifier("approval_id")));
            assert_eq!(mint(&key, &hash(), &terms("a", id)), Err(MintError::Identifier("tenant_id")));
            // Even with a signature that is right for the joined text.
            let mut forged = artifact("a");
            forged.approval_id = id.to_owned();
            let text = SignedText(format!("{id}:{}:t:{}", hash().as_str(), forged.issued_at));
            forged.signature = String::from_utf8(key.sign(&text).to_vec()).unwrap();
            assert_eq!(authenticate(&forged, &hash(), &verifier()).unwrap_err(), Denial::Signature);
        }
        let bad_time = Terms { issued_at: "now", ..terms("a", "t") };
        assert_eq!(mint(&key, &hash(), &bad_time), Err(MintError::IssuedAt));
    }

    proptest::proptest! {
        /// Alphabets so small that borders between fields would shift if they could.
        #[test]
        fn one_signed_text_is_of_one_approval(
            a in ("[a.:]{0,3}", "[a.:]{0,3}", "[a:]{0,3}"),
            b in ("[a.:]{0,3}", "[a.:]{0,3}", "[a:]{0,3}"),
            same_hash in proptest::bool::ANY,
        ) {
            let hash = |same: bool| if same { "a".repeat(64) } else { "a".repeat(63) + "b" };
            let join = |(id, tenant, time): &(String, String, String), hash: &str| {
                SignedText::join(id, hash, tenant, time).map(|text| text.0)
            };
            if let (Some(one), Some(other)) = (join(&a, &hash(true)), join(&b, &hash(same_hash))) {
                proptest::prop_assert_eq!(one == other, a == b && same_hash);
            }
        }
    }

    #[test]
    fn the_forms_do_not_mix() {
        let check = |artifact: &Artifact| authenticate(artifact, &hash(), &verifier()).map(drop);
        let mut both = artifact("a");
        both.expires_at = Some("2026-02-17T10:05:00Z".to_owned());
        assert_eq!((both.form(), check(&both)), (None, Err(Denial::Signature)));
        let ed25519 = Artifact { issued_by: None, ..both };
        assert_eq!(check(&ed25519), Err(Denial::NotConfigured("CLAWSHIELD_PUBLIC_KEY")));
        let unknown_key = Artifact { kid: Some("k1".to_owned()), ..artifact("a") };
        assert_eq!(check(&unknown_key), Err(Denial::Signature));
        let keyless = Verifier { hmac_key: None, ..verifier() };
        assert_eq!(
            authenticate(&artifact("a"), &hash(), &keyless).map(drop),
            Err(Denial::NotConfigured("CLAWSHIELD_SECRET_KEY"))
        );
    }

    #[test]
    fn explaining_goes_on_after_a_failure() {
        let mut wrong = artifact("a");
        wrong.action_hash = "0".repeat(64);
        wrong.issued_by = Some("me".to_owned());
        let outcome: Vec<bool> = explain(&wrong, &hash(), &verifier()).iter().map(|(_, r)| r.is_ok()).collect();
        assert_eq!(outcome, [false, false, true, false]);
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", verifier().hmac_key), "Some(HmacKey(..))");
    }

    #[test]
    fn a_printed_artifact_reads_back() {
        let read = Artifact::parse(artifact("a").to_json().as_bytes(), Default::default()).unwrap();
        assert_eq!(read, artifact("a"));
    }
}
