//! What a verifier checks, in the contract's order, which is written once, in [`STEPS`]: the server stops at the first
//! that fails, [`explain`] goes through all of them.

use std::cmp::Reverse;

use chrono::{DateTime, TimeDelta, Utc};
use subtle::ConstantTimeEq;

use super::signed::SignedText;
use super::{ActionHash, Artifact, Denial, Form, ISSUER, Key};
use crate::timestamp;

/// Seconds for which an approval of the HMAC form is good; exactly this age is still valid.
pub const HMAC_LIFETIME_SECONDS: i64 = 300;
/// Keys that an artifact without a `kid` is tried with, so that a forged one costs no more.
pub const MOST_KEYS_TRIED: usize = 4;

/// What approvals are checked against.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// The only tenant that is acted for.
    pub tenant_id: String,
    /// Its keys, of both forms.
    pub keys: Vec<Key>,
}

impl Verifier {
    /// The keys that may have signed it, the one that is good for longest first: those that approve nothing new any more
    /// are the last.
    fn candidates(&self, form: Form, kid: Option<&str>, now: DateTime<Utc>) -> Vec<&Key> {
        let may = |key: &&Key| {
            let is_named = kid.is_none_or(|kid| key.id.as_deref() == Some(kid));
            key.material.form() == form && is_named && key.has_begun(now)
        };
        let mut found: Vec<&Key> = self.keys.iter().filter(may).collect();
        found.sort_by_key(|key| Reverse(key.not_after.unwrap_or(DateTime::<Utc>::MAX_UTC)));
        found.truncate(MOST_KEYS_TRIED);
        found
    }
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
    expires_at: Option<String>,
    key_id: Option<String>,
    key_is_retired: bool,
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

    /// The name of the key that verified it, if it has one.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Whether that key approves nothing new any more. Then it may be told only what it approved itself.
    pub fn key_is_retired(&self) -> bool {
        self.key_is_retired
    }

    /// Checks whether it approves anything new: its key, and its age by the verifier's clock. It may be `skew` ahead, and
    /// may have been signed for `max_lifetime`.
    ///
    /// # Errors
    /// A key that is retired, a time that is none, is too far ahead, or is past.
    pub fn check_time(&self, now: DateTime<Utc>, skew: TimeDelta, max_lifetime: TimeDelta) -> Result<Fresh, Denial> {
        if self.key_is_retired {
            return Err(Denial::Retired);
        }
        let issued_at = timestamp::parse(&self.issued_at).ok_or(Denial::Timestamp("issued_at"))?;
        let expires_at = match &self.expires_at {
            None => issued_at + TimeDelta::seconds(HMAC_LIFETIME_SECONDS),
            Some(expires_at) => timestamp::parse(expires_at).ok_or(Denial::Timestamp("expires_at"))?,
        };
        if issued_at - now > skew {
            return Err(Denial::NotYetValid);
        }
        if now > expires_at || expires_at < issued_at {
            return Err(Denial::Expired);
        }
        if self.expires_at.is_some() && expires_at - issued_at > max_lifetime {
            return Err(Denial::Lifetime);
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

/// Checks everything about an approval but its age and its use. The time tells which keys have begun.
///
/// # Errors
/// The first of [`STEPS`] that fails.
pub fn authenticate(
    artifact: &Artifact,
    hash: &ActionHash,
    verifier: &Verifier,
    now: DateTime<Utc>,
) -> Result<Authentic, Denial> {
    let mut key = None;
    for step in STEPS {
        key = check(step, artifact, hash, verifier, now)?.or(key);
    }
    let key = key.expect("one of the steps finds the key");
    Ok(Authentic {
        approval_id: artifact.approval_id.clone(),
        tenant_id: artifact.tenant_id.clone(),
        issued_at: artifact.issued_at.clone(),
        expires_at: artifact.expires_at.clone(),
        key_id: key.id.clone(),
        key_is_retired: key.is_retired(now),
    })
}

/// Every step with its outcome, for people who ask why.
pub fn explain(
    artifact: &Artifact,
    hash: &ActionHash,
    verifier: &Verifier,
    now: DateTime<Utc>,
) -> Vec<(Step, Result<(), Denial>)> {
    STEPS.into_iter().map(|step| (step, check(step, artifact, hash, verifier, now).map(drop))).collect()
}

/// The key, where the step is about it.
fn check<'v>(
    step: Step,
    artifact: &Artifact,
    hash: &ActionHash,
    verifier: &'v Verifier,
    now: DateTime<Utc>,
) -> Result<Option<&'v Key>, Denial> {
    let holds = |condition: bool, denial: Denial| if condition { Ok(None) } else { Err(denial) };
    match step {
        Step::Hash => holds(same(hash.as_str(), &artifact.action_hash), Denial::HashMismatch),
        Step::Signature => check_signature(artifact, verifier, now).map(Some),
        Step::Tenant => holds(same(&verifier.tenant_id, &artifact.tenant_id), Denial::Tenant),
        Step::Issuer => match artifact.issued_by.as_deref() {
            None | Some(ISSUER) => Ok(None),
            Some(other) => Err(Denial::Issuer(other.to_owned())),
        },
    }
}

fn check_signature<'v>(artifact: &Artifact, verifier: &'v Verifier, now: DateTime<Utc>) -> Result<&'v Key, Denial> {
    let form = artifact.form().ok_or(Denial::Signature)?;
    if !verifier.keys.iter().any(|key| key.material.form() == form) {
        return Err(Denial::NotConfigured(form.variable()));
    }
    let text = SignedText::of(artifact).ok_or(Denial::Signature)?;
    let candidates = verifier.candidates(form, artifact.kid.as_deref(), now);
    let signed = |key: &&Key| key.material.verifies(text.as_bytes(), &artifact.signature);
    candidates.into_iter().find(signed).ok_or(Denial::Signature)
}

/// Compares without telling by its time where the first difference is.
fn same(ours: &str, theirs: &str) -> bool {
    ours.as_bytes().ct_eq(theirs.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::approval::{HmacKey, Material, PrivateKey, Terms, mint, mint_ed25519};

    const ID: &str = "8a2f5c1e-0f6f-4d0a-9a55-6f6f0c1f7b11";
    const ISSUED_AT: &str = "2026-02-17T10:00:00Z";

    fn at(time: &str) -> DateTime<Utc> {
        timestamp::parse(time).unwrap()
    }

    fn now() -> DateTime<Utc> {
        at(ISSUED_AT)
    }

    fn private(seed: u8) -> PrivateKey {
        PrivateKey::from_seed(&[seed; 32])
    }

    fn public(id: &str, seed: u8) -> Key {
        Key { id: Some(id.to_owned()), ..Key::always(Material::Ed25519(private(seed).public())) }
    }

    fn hmac(id: &str, secret: &[u8]) -> Key {
        Key { id: Some(id.to_owned()), ..Key::always(Material::Hmac(HmacKey::new(secret))) }
    }

    fn verifier(keys: Vec<Key>) -> Verifier {
        Verifier { tenant_id: "t".to_owned(), keys }
    }

    fn hash() -> ActionHash {
        ActionHash::of_digest([7; 32])
    }

    fn terms(kid: Option<&'static str>) -> Terms<'static> {
        Terms { approval_id: ID, tenant_id: "t", issued_at: ISSUED_AT, kid }
    }

    fn by_hmac(secret: &[u8]) -> Artifact {
        mint(&HmacKey::new(secret), &hash(), &terms(None)).unwrap()
    }

    fn by_ed25519(seed: u8) -> Artifact {
        mint_ed25519(&private(seed), &hash(), &terms(None), "2026-02-17T11:00:00Z").unwrap()
    }

    fn named(kid: &str, artifact: Artifact) -> Artifact {
        Artifact { kid: Some(kid.to_owned()), ..artifact }
    }

    fn key_of(artifact: &Artifact, verifier: &Verifier) -> Result<Option<String>, Denial> {
        authenticate(artifact, &hash(), verifier, now()).map(|authentic| authentic.key_id)
    }

    #[test]
    fn what_was_minted_is_authentic() {
        let verifier = verifier(vec![hmac("h", b"k"), public("e", 1)]);
        for (artifact, key) in [(by_hmac(b"k"), "h"), (by_ed25519(1), "e")] {
            let authentic = authenticate(&artifact, &hash(), &verifier, now()).unwrap();
            assert_eq!((authentic.approval_id(), authentic.tenant_id()), (ID, "t"));
            assert_eq!((authentic.key_id(), authentic.key_is_retired()), (Some(key), false));
        }
        let nameless = Verifier { keys: vec![Key::always(Material::Hmac(HmacKey::new(b"k")))], ..verifier };
        assert_eq!(key_of(&by_hmac(b"k"), &nameless), Ok(None));
    }

    #[test]
    fn every_field_counts() {
        let verifier = verifier(vec![hmac("h", b"k"), public("e", 1)]);
        for artifact in [by_hmac(b"k"), by_ed25519(1)] {
            let changes: [fn(&mut Artifact); 6] = [
                |a| a.approval_id = ID.replace('8', "9"),
                |a| a.tenant_id = "u".to_owned(),
                |a| a.issued_at = "2026-02-17T10:00:01Z".to_owned(),
                |a| a.issued_at = "2026-02-17T10:00:00".to_owned(),
                |a| a.signature.insert(0, ' '),
                |a| a.signature.truncate(10),
            ];
            for change in changes {
                let mut changed = artifact.clone();
                change(&mut changed);
                assert_eq!(key_of(&changed, &verifier), Err(Denial::Signature), "{changed:?}");
            }
            let other = Artifact { action_hash: "0".repeat(64), ..artifact };
            assert_eq!(key_of(&other, &verifier), Err(Denial::HashMismatch));
        }
        let longer = Artifact { expires_at: Some("2026-02-17T12:00:00Z".to_owned()), ..by_ed25519(1) };
        assert_eq!(key_of(&longer, &verifier), Err(Denial::Signature));
    }

    /// Even with a signature that is right for the joined text.
    #[test]
    fn nothing_ambiguous_is_accepted() {
        let verifier = verifier(vec![hmac("h", b"k"), public("e", 1)]);
        let long = "a".repeat(129);
        for id in ["", "a:b", "a b", "é", long.as_str()] {
            let mut forged = Artifact { approval_id: id.to_owned(), ..by_hmac(b"k") };
            let text = format!("{id}:{}:t:{ISSUED_AT}", hash().as_str());
            forged.signature = HmacKey::new(b"k").sign(text.as_bytes());
            assert_eq!(key_of(&forged, &verifier), Err(Denial::Signature));
        }
        let signed = |id: &str, issued_at: &str| {
            let mut forged = Artifact { approval_id: id.to_owned(), issued_at: issued_at.to_owned(), ..by_ed25519(1) };
            let expires_at = forged.expires_at.clone().unwrap();
            forged.signature = private(1).sign(format!("{id}t{}{issued_at}{expires_at}", hash().as_str()).as_bytes());
            key_of(&forged, &verifier)
        };
        assert_eq!(signed(ID, ISSUED_AT), Ok(Some("e".to_owned())));
        for (id, issued_at) in [("", ISSUED_AT), ("a", ISSUED_AT), (&ID[1..], ISSUED_AT), (ID, ""), (ID, "now")] {
            assert_eq!(signed(id, issued_at), Err(Denial::Signature), "{id:?} {issued_at:?}");
        }
    }

    #[test]
    fn the_forms_do_not_mix() {
        let (with_hmac, with_ed25519) = (verifier(vec![hmac("k", b"k")]), verifier(vec![public("k", 1)]));
        let both = Artifact { expires_at: Some(ISSUED_AT.to_owned()), ..by_hmac(b"k") };
        assert_eq!((both.form(), key_of(&both, &with_hmac)), (None, Err(Denial::Signature)));
        assert_eq!(key_of(&by_ed25519(1), &with_hmac), Err(Denial::NotConfigured("CLAWSHIELD_PUBLIC_KEY")));
        assert_eq!(key_of(&by_hmac(b"k"), &with_ed25519), Err(Denial::NotConfigured("CLAWSHIELD_SECRET_KEY")));
        // A public key is no secret: nobody can use it as one.
        let pem = private(1).public().to_pem();
        let all = verifier(vec![hmac("h", b"k"), public("e", 1)]);
        assert_eq!(key_of(&by_hmac(pem.as_bytes()), &all), Err(Denial::Signature));
        assert_eq!(key_of(&named("h", by_ed25519(1)), &all), Err(Denial::Signature), "a key of the other form");
    }

    #[test]
    fn a_kid_chooses_and_an_unknown_one_is_refused() {
        let keys = verifier(vec![public("1", 1), public("2", 2), hmac("3", b"k")]);
        assert_eq!(key_of(&named("2", by_ed25519(2)), &keys), Ok(Some("2".to_owned())));
        assert_eq!(key_of(&named("1", by_ed25519(2)), &keys), Err(Denial::Signature));
        assert_eq!(key_of(&named("x", by_ed25519(2)), &keys), Err(Denial::Signature));
        assert_eq!(key_of(&named("", by_ed25519(2)), &keys), Err(Denial::Signature));
        let nameless = verifier(vec![Key { id: None, ..public("", 2) }]);
        assert_eq!(key_of(&named("2", by_ed25519(2)), &nameless), Err(Denial::Signature));
    }

    #[test]
    fn without_a_kid_the_four_that_are_good_for_longest_are_tried() {
        let until = |key: Key, time: &str| Key { not_after: Some(at(time)), ..key };
        let keys = verifier(vec![
            until(public("5", 5), "2026-02-17T09:00:00Z"),
            until(public("4", 4), "2026-02-17T09:30:00Z"),
            until(public("3", 3), "2026-02-17T12:00:00Z"),
            public("1", 1),
            public("2", 2),
            hmac("h", b"k"),
        ]);
        for seed in 1..=4 {
            assert_eq!(key_of(&by_ed25519(seed), &keys), Ok(Some(seed.to_string())));
        }
        assert_eq!(key_of(&by_ed25519(5), &keys), Err(Denial::Signature));
        assert_eq!(key_of(&named("5", by_ed25519(5)), &keys), Ok(Some("5".to_owned())));
    }

    #[test]
    fn a_key_has_its_time() {
        let hour = TimeDelta::hours(1);
        let check = |key: Key| {
            let authentic = authenticate(&by_ed25519(1), &hash(), &verifier(vec![key]), now())?;
            authentic.check_time(now(), hour, hour).map(|_| authentic.key_is_retired())
        };
        let with = |not_before: Option<&str>, not_after: Option<&str>| {
            check(Key { not_before: not_before.map(at), not_after: not_after.map(at), ..public("1", 1) })
        };
        let (second_before, second_after) = (Some("2026-02-17T09:59:59Z"), Some("2026-02-17T10:00:01Z"));
        assert_eq!(with(None, None), Ok(false));
        assert_eq!(with(Some(ISSUED_AT), second_after), Ok(false));
        assert_eq!(with(second_after, None), Err(Denial::Signature), "not begun: it verifies nothing");
        assert_eq!(with(None, Some(ISSUED_AT)), Err(Denial::Retired));
        assert_eq!(with(second_before, second_before), Err(Denial::Retired));
        let retired = verifier(vec![Key { not_after: Some(now()), ..public("1", 1) }]);
        assert!(authenticate(&by_ed25519(1), &hash(), &retired, now()).unwrap().key_is_retired());
    }

    #[test]
    fn an_approval_has_its_time() {
        let (skew, day) = (TimeDelta::seconds(30), TimeDelta::hours(24));
        let check = |artifact: &Artifact, now: &str| {
            let verifier = verifier(vec![hmac("h", b"k"), public("e", 1)]);
            let authentic = authenticate(artifact, &hash(), &verifier, at(now)).unwrap();
            authentic.check_time(at(now), skew, day).map(|fresh| fresh.issued_at())
        };
        let until = |expires_at: &str| {
            let text = format!("{ID}t{}{ISSUED_AT}{expires_at}", hash().as_str());
            let signature = private(1).sign(text.as_bytes());
            Artifact { expires_at: Some(expires_at.to_owned()), signature, ..by_ed25519(1) }
        };
        let issued_at = Ok(at(ISSUED_AT));
        for artifact in [by_hmac(b"k"), until("2026-02-17T10:05:00Z")] {
            assert_eq!(check(&artifact, "2026-02-17T10:05:00Z"), issued_at);
            assert_eq!(check(&artifact, "2026-02-17T10:05:00.000001Z"), Err(Denial::Expired));
            assert_eq!(check(&artifact, "2026-02-17T09:59:30Z"), issued_at);
            assert_eq!(check(&artifact, "2026-02-17T09:59:29.999999Z"), Err(Denial::NotYetValid));
        }
        assert_eq!(check(&until("2026-02-18T10:00:00Z"), ISSUED_AT), issued_at);
        assert_eq!(check(&until("2026-02-18T10:00:00.000001Z"), ISSUED_AT), Err(Denial::Lifetime));
        assert_eq!(check(&until("2026-02-18T10:00:01Z"), "2026-02-18T10:00:02Z"), Err(Denial::Expired));
        assert_eq!(check(&until("2026-02-17T09:59:59Z"), "2026-02-17T09:59:50Z"), Err(Denial::Expired));
        assert_eq!(check(&until(ISSUED_AT), ISSUED_AT), issued_at, "for this moment");
        assert_eq!(check(&until("later"), ISSUED_AT), Err(Denial::Timestamp("expires_at")));
        let mut timeless = Artifact { issued_at: "now".to_owned(), ..by_hmac(b"k") };
        timeless.signature = HmacKey::new(b"k").sign(format!("{ID}:{}:t:now", hash().as_str()).as_bytes());
        assert_eq!(check(&timeless, ISSUED_AT), Err(Denial::Timestamp("issued_at")));
    }

    #[test]
    fn the_tenant_and_the_issuer_are_asked_for_last() {
        let elsewhere = Verifier { tenant_id: "u".to_owned(), keys: vec![hmac("h", b"k")] };
        assert_eq!(key_of(&by_hmac(b"k"), &elsewhere), Err(Denial::Tenant));
        let stranger = Artifact { issued_by: Some("me".to_owned()), ..by_hmac(b"k") };
        assert_eq!(key_of(&stranger, &elsewhere), Err(Denial::Tenant));
        assert_eq!(key_of(&stranger, &verifier(vec![hmac("h", b"k")])), Err(Denial::Issuer("me".to_owned())));
        let nobody = Artifact { issued_by: None, ..by_hmac(b"k") };
        assert_eq!(key_of(&nobody, &verifier(vec![hmac("h", b"k")])), Ok(Some("h".to_owned())));
    }

    #[test]
    fn explaining_goes_on_after_a_failure() {
        let mut wrong = by_hmac(b"k");
        wrong.action_hash = "0".repeat(64);
        wrong.issued_by = Some("me".to_owned());
        let steps = explain(&wrong, &hash(), &verifier(vec![hmac("h", b"k")]), now());
        let outcome: Vec<bool> = steps.iter().map(|(_, r)| r.is_ok()).collect();
        assert_eq!(outcome, [false, false, true, false]);
        let questions: std::collections::HashSet<_> = steps.iter().map(|(step, _)| step.question()).collect();
        assert_eq!(questions.len(), 4);
    }
}
