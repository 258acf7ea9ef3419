//! The body of `POST /execute`: read in one way, or not at all.

use std::collections::HashSet;
use std::fmt;

use openexec_protocol::approval::Artifact;
use openexec_protocol::canonical::{CanonicalText, Limits};
use openexec_protocol::receipt::ResultText;
use openexec_protocol::request::{InvalidRequest, Request};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Seen;

/// Reads a body.
///
/// What is read as JSON is JSON for `serde_json` too, and no object in it repeats a name. What is accepted says the same
/// to both, its canonical text reads as itself, and its hash is the SHA-256 of what CPython would print.
pub fn check(body: &[u8]) -> Seen {
    let request = match Request::parse(body, Limits::default()) {
        Ok(request) => request,
        Err(InvalidRequest::Json(_)) => return Seen::from(["no JSON"]),
        Err(InvalidRequest::Member { .. }) => {
            must_be_json(body);
            return Seen::from(["a wrong member"]);
        }
    };
    must_be_json(body);
    same_to_both(&request, body);
    let payload = request.payload();
    let read = |text: &str| CanonicalText::parse(text.as_bytes(), Limits::default()).unwrap();
    assert_eq!(&read(payload.as_str()), payload, "canonical text reads as itself");
    assert_eq!(&read(ResultText::from(payload).as_str()), payload, "and so does the text that a receipt covers");
    let (action, nonce) = (quoted(request.action()), quoted(request.nonce()));
    let approved = format!(r#"{{"action":{action},"payload":{}}}"#, payload.as_str());
    assert_eq!(request.action_hash().as_str(), hex::encode(Sha256::digest(approved)));
    let plain = format!(r#"{{"nonce":{nonce},"payload":{},"action":{action}}}"#, payload.as_str());
    let again = Request::parse(plain.as_bytes(), Limits::default()).unwrap();
    assert_eq!(again.action_hash(), request.action_hash());
    let mut seen = Seen::from(["accepted"]);
    if let Some(artifact) = request.artifact() {
        assert_eq!(&Artifact::parse(artifact.to_json().as_bytes(), Limits::default()).unwrap(), artifact);
        seen.insert("an artifact");
    }
    seen
}

fn must_be_json(body: &[u8]) {
    if let Err(error) = serde_json::from_slice::<Unrepeated>(body) {
        // It has no integers of any size; ours have up to 4 300 digits, as CPython's.
        assert!(has_large_integer(body) && error.to_string().contains("number out of range"), "{error}");
        serde_json::from_slice::<IgnoredAny>(body).unwrap();
    }
}

fn has_large_integer(body: &[u8]) -> bool {
    body.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() > 300)
}

fn same_to_both(request: &Request, body: &[u8]) {
    let Ok(theirs) = serde_json::from_slice::<Value>(body) else { return assert!(has_large_integer(body)) };
    assert_eq!((theirs["action"].as_str(), theirs["nonce"].as_str()), (Some(request.action()), Some(request.nonce())));
    let payload = match &theirs["payload"] {
        Value::Null => Value::Object(Default::default()),
        payload => payload.clone(),
    };
    let ours = serde_json::from_str(request.payload().as_str()).unwrap();
    assert!(same_value(&ours, &payload), "{ours} is not {payload}");
}

fn same_value(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same_value(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let same = |(name, one)| other.get(name).is_some_and(|other| same_value(one, other));
            one.len() == other.len() && one.iter().all(same)
        }
        (Value::Number(one), Value::Number(other)) => {
            one == other || {
                // `serde_json` may miss the last bit of a float.
                let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
                (one - other).abs() <= one.abs() * 1e-14
            }
        }
        _ => one == other,
    }
}

/// As CPython quotes it.
fn quoted(text: &str) -> String {
    let escape = |char: char| match char {
        ' '..='~' => char.to_string(),
        _ => char.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    serde_json::to_string(text).unwrap().chars().map(escape).collect()
}

/// JSON in which no object repeats a name.
struct Unrepeated;

impl<'de> Deserialize<'de> for Unrepeated {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(Unrepeated)
    }
}

impl<'de> Visitor<'de> for Unrepeated {
    type Value = Unrepeated;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self, E> {
        assert!(number.is_finite());
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while let Some(Unrepeated) = items.next_element()? {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        let mut names: HashSet<String> = HashSet::new();
        while let Some((name, Unrepeated)) = members.next_entry()? {
            assert!(names.insert(name), "an object repeats a name");
        }
        Ok(self)
    }
}
