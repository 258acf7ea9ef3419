//! What is under a signature.

use super::{ActionHash, Artifact, Form, is_identifier};
use crate::timestamp;

/// The text under a signature. Fields joined by plain text are only unambiguous when no border between two can move, so
/// each must match its grammar first. Then one text is of one approval only, and single use can be counted by the
/// approval's id alone.
pub(super) struct SignedText(String);

impl SignedText {
    pub(super) fn of(artifact: &Artifact) -> Option<Self> {
        let Artifact { approval_id, tenant_id, action_hash, issued_at, expires_at, .. } = artifact;
        let fits = is_identifier(approval_id) && is_identifier(tenant_id) && ActionHash::parse(action_hash).is_some();
        let text = match (artifact.form()?, expires_at) {
            // No identifier and no hash has a colon, so `issued_at` begins behind the third one, whatever it is.
            (Form::Hmac, _) if fits => [approval_id, action_hash, tenant_id, issued_at].map(String::as_str).join(":"),
            // The first 36 characters are the id. No time has 64 hex digits before it that could be a hash's, and none
            // begins where another could end. `expires_at` may be no time: that is found out later, and said.
            (Form::Ed25519, Some(expires_at))
                if fits && is_uuid(approval_id) && timestamp::parse(issued_at).is_some() =>
            {
                [approval_id, tenant_id, action_hash, issued_at, expires_at].map(String::as_str).concat()
            }
            _ => return None,
        };
        Some(SignedText(text))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// 36 characters: 8, 4, 4, 4 and 12 hex digits.
pub(super) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(at, b)| if matches!(at, 8 | 13 | 18 | 23) { b == b'-' } else { b.is_ascii_hexdigit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(fields: &(String, String, String, String), expires_at: Option<&String>) -> Artifact {
        let (approval_id, tenant_id, action_hash, issued_at) = fields.clone();
        let expires_at = expires_at.cloned();
        Artifact { approval_id, tenant_id, action_hash, issued_at, expires_at, ..Artifact::default() }
    }

    proptest::proptest! {
        /// Alphabets so small that borders between fields would shift if they could.
        #[test]
        fn one_signed_text_is_of_one_hmac_approval(
            a in ("[a.:]{0,3}", "[a.:]{0,3}", "a{63}[ab]", "[a:]{0,3}"),
            b in ("[a.:]{0,3}", "[a.:]{0,3}", "a{63}[ab]", "[a:]{0,3}"),
        ) {
            let text = |fields| SignedText::of(&artifact(fields, None)).map(|text| text.0);
            if let (Some(one), Some(other)) = (text(&a), text(&b)) {
                proptest::prop_assert_eq!(one == other, a == b);
            }
        }

        /// The same text, cut at all places.
        #[test]
        fn one_signed_text_is_of_one_ed25519_approval(
            tenant in "[0-9a-f]{1,4}",
            hash in "[0-9]{64}",
            issued_at in "2026-02-17T10:08:22(\\.[0-9]{1,3})?(Z|\\+01:00)?",
            expires_at in "2026-02-17T10:09:22(\\.[0-9]{1,3})?(Z|\\+01:00)?",
        ) {
            let id = "8a2f5c1e-0f6f-4d0a-9a55-6f6f0c1f7b11".to_owned();
            let whole = format!("{tenant}{hash}{issued_at}{expires_at}");
            let mut readings = 0;
            for first in 1..whole.len() - 64 {
                for third in first + 65..whole.len() {
                    let (hash, issued_at) = (whole[first..first + 64].to_owned(), whole[first + 64..third].to_owned());
                    let fields = (id.clone(), whole[..first].to_owned(), hash, issued_at);
                    let rest = whole[third..].to_owned();
                    let reads = SignedText::of(&artifact(&fields, Some(&rest))).is_some();
                    readings += usize::from(reads && timestamp::parse(&rest).is_some());
                    if reads {
                        proptest::prop_assert_eq!((&fields.1, &fields.2), (&tenant, &hash_of(&whole, tenant.len())));
                    }
                }
            }
            proptest::prop_assert_eq!(readings, 1);
        }
    }

    fn hash_of(whole: &str, from: usize) -> String {
        whole[from..from + 64].to_owned()
    }

    #[test]
    fn a_uuid_has_36_characters() {
        assert!(is_uuid("8a2f5c1e-0f6f-4d0a-9a55-6F6F0C1F7B11"));
        for other in [
            "",
            "8a2f5c1e-0f6f-4d0a-9a55-6f6f0c1f7b1",
            "8a2f5c1e00f6f-4d0a-9a55-6f6f0c1f7b11",
            "8a2f5c1e-0f6f-4d0a-9a55-6f6f0c1f7b1g",
            "8a2f5c1e-0f6f-4d0a-9a55-6f6f0c1f7b111",
        ] {
            assert!(!is_uuid(other), "{other}");
        }
    }
}
