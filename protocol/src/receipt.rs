//! Receipts: a hash that binds a result to the execution that returned it.
//!
//! It proves integrity, not origin: anyone can compute one.

use memchr::memchr2;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::approval::lower_hex;
use crate::canonical::CanonicalText;

/// A result in the spelling that receipts cover: CPython's `json.dumps(result, sort_keys=True)`, which is canonical
/// text with a blank behind every `,` and `:` that is not inside a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultText(String);

impl ResultText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl From<&CanonicalText> for ResultText {
    fn from(canonical: &CanonicalText) -> Self {
        let text = canonical.as_str();
        let bytes = text.as_bytes();
        let mut out = String::with_capacity(text.len() + text.len() / 8 + 8);
        let (mut at, mut copied) = (0, 0);
        while let Some(byte) = bytes.get(at) {
            at += 1;
            match byte {
                b'"' => at = end_of_string(bytes, at),
                b',' | b':' => {
                    out.push_str(&text[copied..at]);
                    out.push(' ');
                    copied = at;
                }
                _ => {}
            }
        }
        out.push_str(&text[copied..]);
        ResultText(out)
    }
}

/// Where the string that begins before `at` is over. Most of a result is in its strings.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            return at;
        }
        // What is escaped is never the end.
        at += 1;
    }
    bytes.len()
}

/// Lower-case hex SHA-256 of `<id>:<result text>`.
pub fn receipt(execution_id: &str, result_text: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(execution_id);
    hash.update(":");
    hash.update(result_text);
    String::from_utf8(lower_hex(hash.finalize().into()).to_vec()).expect("hex is ASCII")
}

/// Whether a receipt belongs to this execution and this result text.
pub fn verify(execution_id: &str, result_text: &str, claimed: &str) -> bool {
    receipt(execution_id, result_text).as_bytes().ct_eq(claimed.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_the_same_however_it_is_taken() {
        let result = CanonicalText::parse(br#"{"a,b":[1,"x:\\","\",:",{}]}"#, Default::default()).unwrap();
        let result = ResultText::from(&result);
        assert_eq!(result.as_str(), r#"{"a,b": [1, "x:\\", "\",:", {}]}"#);
        assert_eq!(result.clone().into_string(), result.as_str());
    }
}
