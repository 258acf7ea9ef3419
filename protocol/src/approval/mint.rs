//! What an approver does.

use super::signed::{SignedText, is_uuid};
use super::{ActionHash, Artifact, HmacKey, ISSUER, PrivateKey, is_identifier};
use crate::timestamp;

/// What an approver decides beside the action itself.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// New for each approval; a UUID is a good one, and the Ed25519 form takes nothing else.
    pub approval_id: &'a str,
    /// For whom.
    pub tenant_id: &'a str,
    /// When; see [`timestamp::print`].
    pub issued_at: &'a str,
    /// The key's name, where verifiers know it by one.
    pub kid: Option<&'a str>,
}

/// Why nothing was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// It could not be told apart from another approval.
    #[error("`{0}` must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -")]
    Identifier(&'static str),
    /// It could not be told apart from another approval.
    #[error("`approval_id` must be a UUID of 36 characters for an Ed25519 approval")]
    Uuid,
    /// No verifier would read it.
    #[error("`{0}` is no ISO 8601 time")]
    Time(&'static str),
    /// It would never be good.
    #[error("`expires_at` must be later than `issued_at`")]
    NeverGood,
}

/// Signs an approval of the HMAC form, which is good for [`super::HMAC_LIFETIME_SECONDS`].
///
/// # Errors
/// Terms that no verifier would accept.
pub fn mint(key: &HmacKey, hash: &ActionHash, terms: &Terms<'_>) -> Result<Artifact, MintError> {
    let artifact = Artifact { issued_by: Some(ISSUER.to_owned()), ..unsigned(hash, terms)? };
    Ok(signed(artifact, |text| key.sign(text)))
}

/// Signs an approval of the Ed25519 form, which is good until it expires.
///
/// # Errors
/// Terms that no verifier would accept.
pub fn mint_ed25519(
    key: &PrivateKey,
    hash: &ActionHash,
    terms: &Terms<'_>,
    expires_at: &str,
) -> Result<Artifact, MintError> {
    let artifact = Artifact { expires_at: Some(expires_at.to_owned()), ..unsigned(hash, terms)? };
    if !is_uuid(terms.approval_id) {
        return Err(MintError::Uuid);
    }
    if timestamp::parse(expires_at).ok_or(MintError::Time("expires_at"))? <= time_issued(terms)? {
        return Err(MintError::NeverGood);
    }
    Ok(signed(artifact, |text| key.sign(text)))
}

fn unsigned(hash: &ActionHash, terms: &Terms<'_>) -> Result<Artifact, MintError> {
    let named = [("approval_id", Some(terms.approval_id)), ("tenant_id", Some(terms.tenant_id)), ("kid", terms.kid)];
    if let Some((name, _)) = named.into_iter().find(|(_, text)| text.is_some_and(|text| !is_identifier(text))) {
        return Err(MintError::Identifier(name));
    }
    time_issued(terms)?;
    Ok(Artifact {
        approval_id: terms.approval_id.to_owned(),
        action_hash: hash.as_str().to_owned(),
        issued_at: terms.issued_at.to_owned(),
        tenant_id: terms.tenant_id.to_owned(),
        kid: terms.kid.map(str::to_owned),
        ..Artifact::default()
    })
}

fn time_issued(terms: &Terms<'_>) -> Result<chrono::DateTime<chrono::Utc>, MintError> {
    timestamp::parse(terms.issued_at).ok_or(MintError::Time("issued_at"))
}

fn signed(artifact: Artifact, sign: impl FnOnce(&[u8]) -> String) -> Artifact {
    let text = SignedText::of(&artifact).expect("its fields match their grammars");
    Artifact { signature: sign(text.as_bytes()), ..artifact }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms<'_> = Terms {
        approval_id: "8a2f5c1e-0f6f-4d0a-9a55-6f6f0c1f7b11",
        tenant_id: "t",
        issued_at: "2026-02-17T10:00:00Z",
        kid: None,
    };

    #[test]
    fn an_artifact_says_what_the_terms_say() {
        let hash = ActionHash::of_digest([7; 32]);
        let terms = Terms { kid: Some("k"), ..TERMS };
        let later = "2026-02-17T10:00:01Z";
        let by_hmac = mint(&HmacKey::new(b"k"), &hash, &terms).unwrap();
        let by_ed25519 = mint_ed25519(&PrivateKey::from_seed(&[7; 32]), &hash, &terms, later).unwrap();
        assert_eq!((by_hmac.issued_by.as_deref(), by_hmac.expires_at.as_deref()), (Some(ISSUER), None));
        assert_eq!((by_ed25519.issued_by.as_deref(), by_ed25519.expires_at.as_deref()), (None, Some(later)));
        for artifact in [by_hmac, by_ed25519] {
            assert_eq!((artifact.approval_id.as_str(), artifact.tenant_id.as_str()), (TERMS.approval_id, "t"));
            assert_eq!((artifact.action_hash.as_str(), artifact.issued_at.as_str()), (hash.as_str(), TERMS.issued_at));
            assert_eq!(artifact.kid.as_deref(), Some("k"));
        }
    }

    #[test]
    fn nothing_is_signed_that_nobody_would_accept() {
        let hash = ActionHash::of_digest([7; 32]);
        let long = "a".repeat(129);
        let both = |terms: Terms<'_>, expires_at: &str| {
            [
                mint(&HmacKey::new(b"k"), &hash, &terms).map(drop),
                mint_ed25519(&PrivateKey::from_seed(&[7; 32]), &hash, &terms, expires_at).map(drop),
            ]
        };
        let later = "2026-02-17T10:00:01Z";
        assert_eq!(both(TERMS, later), [Ok(()), Ok(())]);
        for id in ["", "a:b", "a b", "é", long.as_str()] {
            for (terms, name) in [
                (Terms { approval_id: id, ..TERMS }, "approval_id"),
                (Terms { tenant_id: id, ..TERMS }, "tenant_id"),
                (Terms { kid: Some(id), ..TERMS }, "kid"),
            ] {
                assert_eq!(both(terms, later), [Err(MintError::Identifier(name)); 2]);
            }
        }
        assert_eq!(both(Terms { issued_at: "now", ..TERMS }, later), [Err(MintError::Time("issued_at")); 2]);
        assert_eq!(both(Terms { approval_id: "a", ..TERMS }, later), [Ok(()), Err(MintError::Uuid)]);
        assert_eq!(both(TERMS, "later"), [Ok(()), Err(MintError::Time("expires_at"))]);
        assert_eq!(both(TERMS, TERMS.issued_at), [Ok(()), Err(MintError::NeverGood)]);
    }
}
