//! The paths of requests that are let through: one reading, or none.

use openexec::path::Normal;

use crate::Seen;

/// Reads a path.
///
/// In what is accepted nothing is left that two servers could read differently, it says what was asked for, and its
/// normal form is its own.
pub fn check(bytes: &[u8]) -> Seen {
    let Ok(path) = std::str::from_utf8(bytes) else { return Seen::from(["no text"]) };
    let Some(normal) = Normal::parse(path) else { return Seen::from(["refused"]) };
    let text = normal.as_str();
    assert!(text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
    assert!(!text.contains("//") && !text.contains([';', '\\', '?', '#']), "{text}");
    for segment in text.split('/') {
        assert!(segment != "." && segment != "..", "{text}");
        let decoded = decoded(segment);
        let ambiguous = |byte: &u8| b"/\\;%".contains(byte) || byte.is_ascii_control();
        assert!(!decoded.iter().any(ambiguous) && decoded != b"." && decoded != b"..", "{text}");
        let encoded = segment.match_indices('%').map(|(at, _)| &segment[at + 1..at + 3]);
        assert!(encoded.into_iter().all(|digits| !digits.contains(|digit: char| digit.is_ascii_lowercase())), "{text}");
    }
    assert_eq!(decoded(text), decoded(path), "it is still what was asked for");
    assert_eq!(text.matches('/').count(), path.matches('/').count(), "no segment became two");
    assert_eq!(Normal::parse(text), Some(normal.clone()), "the normal form is its own");
    assert!(normal.is_below("/") && normal.is_below(text) && normal.resembles(text));
    Seen::from([if text == path { "accepted as it is" } else { "accepted in another form" }])
}

/// With every `%XX` replaced.
fn decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(&behind[..2]).unwrap();
            decoded.push(u8::from_str_radix(digits, 16).unwrap());
            rest = &behind[2..];
        } else {
            decoded.push(byte);
            rest = behind;
        }
    }
    decoded
}
