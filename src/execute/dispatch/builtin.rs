//! The built-in actions. They compute and do nothing else.

use num_bigint::BigInt;
use openexec_protocol::canonical::{CanonicalText, Limits};

use super::InvalidPayload;
use crate::registry::Pure;

/// All of them, by name.
pub const ALL: [(&str, Pure); 2] = [("echo", echo), ("add", add)];

/// `{"echo": <payload>}`
///
/// # Errors
/// None: every payload has an echo.
pub fn echo(payload: &CanonicalText) -> Result<CanonicalText, InvalidPayload> {
    Ok(CanonicalText::object_of("echo", payload))
}

/// `{"sum": a + b}` as CPython adds: integers exactly, with a float as floats.
///
/// # Errors
/// Anything that is no number, and a sum that has no canonical text.
pub fn add(payload: &CanonicalText) -> Result<CanonicalText, InvalidPayload> {
    let sum = match (number(payload, "a")?, number(payload, "b")?) {
        (Number::Integer(a), Number::Integer(b)) => (a + b).to_string(),
        (a, b) => format!("{:e}", a.to_float() + b.to_float()),
    };
    let sum = CanonicalText::parse(sum.as_bytes(), Limits::default())
        .map_err(|_| InvalidPayload("`a` + `b` is too large to be written down".to_owned()))?;
    Ok(CanonicalText::object_of("sum", &sum))
}

enum Number {
    Integer(BigInt),
    Float(f64),
}

impl Number {
    /// Rounds to the nearest double, as CPython does; one that is too large becomes an infinity.
    fn to_float(&self) -> f64 {
        match self {
            Number::Integer(integer) => integer.to_string().parse().expect("digits are a float"),
            Number::Float(float) => *float,
        }
    }
}

/// The member of this name, or zero.
fn number(payload: &CanonicalText, name: &str) -> Result<Number, InvalidPayload> {
    let text = payload.member(name).unwrap_or("0");
    let invalid = || InvalidPayload(format!("`{name}` must be a number"));
    if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return Err(invalid());
    }
    if text.contains(['.', 'e']) {
        text.parse().map(Number::Float).map_err(|_| invalid())
    } else {
        text.parse().map(Number::Integer).map_err(|_| invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(payload: &str) -> Result<String, String> {
        let payload = CanonicalText::parse(payload.as_bytes(), Limits::default()).unwrap();
        add(&payload).map(|sum| sum.as_str().to_owned()).map_err(|e| e.0)
    }

    #[test]
    fn sums_are_cpythons() {
        let nines = "9".repeat(4_300);
        for (payload, expected) in [
            (r#"{}"#, r#"{"sum":0}"#),
            (r#"{"a":2,"b":3}"#, r#"{"sum":5}"#),
            (r#"{"a":-7}"#, r#"{"sum":-7}"#),
            (r#"{"a":18446744073709551615,"b":1}"#, r#"{"sum":18446744073709551616}"#),
            (r#"{"a":2,"b":3.0}"#, r#"{"sum":5.0}"#),
            (r#"{"a":0.1,"b":0.2}"#, r#"{"sum":0.30000000000000004}"#),
            (r#"{"a":-0.0,"b":-0.0}"#, r#"{"sum":-0.0}"#),
            (r#"{"a":9007199254740993,"b":0.0}"#, r#"{"sum":9007199254740992.0}"#),
            (r#"{"a":1e300,"b":1}"#, r#"{"sum":1e+300}"#),
        ] {
            assert_eq!(sum(payload).as_deref(), Ok(expected), "{payload}");
        }
        assert!(sum(&format!(r#"{{"a":{nines}}}"#)).is_ok());
    }

    #[test]
    fn what_cannot_be_added_is_named() {
        for value in [r#""1""#, "true", "null", "[]", "{}"] {
            assert_eq!(sum(&format!(r#"{{"a":{value}}}"#)).unwrap_err(), "`a` must be a number");
            assert_eq!(sum(&format!(r#"{{"b":{value}}}"#)).unwrap_err(), "`b` must be a number");
        }
        let nines = "9".repeat(4_300);
        for payload in [
            format!(r#"{{"a":{nines},"b":1}}"#),
            format!(r#"{{"a":{nines},"b":1.0}}"#),
            r#"{"a":1.7e308,"b":1.7e308}"#.to_owned(),
        ] {
            assert!(sum(&payload).unwrap_err().contains("too large"));
        }
    }
}
