//! Strict JSON in, canonical text out, in one pass and without a tree.
//!
//! An approval covers a SHA-256, so two programs must print the same bytes for the same value, and no text may
//! have two readings. The canonical text is what CPython prints for
//! `json.dumps(value, sort_keys=True, separators=(",", ":"))`: it is the oracle of the tests, and nothing here
//! asks what would be nicer. Building a tree first was rejected: it costs more than all the rest of a request.

use crate::reader::Reader;

/// How much JSON is read before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Arrays and objects inside one another, the outermost counted.
    pub depth: usize,
    /// Values in the whole text, containers counted.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { depth: 64, nodes: 10_000 }
    }
}

/// A JSON value in its one canonical spelling. ASCII only.
///
/// There is no way to make one but by reading text strictly, so whoever holds one may hash it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CanonicalText(String);

impl CanonicalText {
    /// Reads exactly one JSON value, with white space around it allowed.
    ///
    /// # Errors
    /// Text that is not JSON (RFC 8259), has more than one reading (a repeated key, a lone surrogate, a number
    /// that no double can hold) or is larger than `limits`.
    pub fn parse(text: &[u8], limits: Limits) -> Result<Self, JsonError> {
        let mut reader = Reader::new(text, limits)?;
        let mut out = Vec::with_capacity(text.len() + 16);
        reader.value(&mut out)?;
        reader.end()?;
        Ok(CanonicalText::from_printed(out))
    }

    /// The empty object.
    pub fn empty_object() -> Self {
        CanonicalText("{}".to_owned())
    }

    /// The canonical text of a string.
    pub fn string(value: &str) -> Self {
        let mut out = Vec::with_capacity(value.len() + 2);
        print_string(value, &mut out);
        CanonicalText::from_printed(out)
    }

    /// An object with one member.
    pub fn object_of(key: &str, value: &CanonicalText) -> Self {
        let mut out = Vec::with_capacity(key.len() + value.0.len() + 6);
        out.push(b'{');
        print_string(key, &mut out);
        out.push(b':');
        out.extend_from_slice(value.0.as_bytes());
        out.push(b'}');
        CanonicalText::from_printed(out)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of a member whose name needs no escape, or `None` where this is no object or has no such member.
    pub fn member(&self, name: &str) -> Option<&str> {
        let mut rest = self.0.strip_prefix('{')?;
        while let Some(quoted) = rest.strip_prefix('"') {
            let key_end = string_end(quoted);
            let value = &quoted[key_end + 2..];
            let value_end = value_end(value);
            if &quoted[..key_end] == name {
                return Some(&value[..value_end]);
            }
            rest = value[value_end..].strip_prefix(',')?;
        }
        None
    }

    pub(crate) fn from_printed(out: Vec<u8>) -> Self {
        CanonicalText(String::from_utf8(out).expect("the printer writes ASCII only"))
    }
}

/// Why a text was refused, and at which byte.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {offset}")]
pub struct JsonError {
    /// What is wrong. Never a part of the text itself.
    pub problem: &'static str,
    /// Bytes before the place where it was noticed.
    pub offset: usize,
}

fn print_string(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for char in value.chars() {
        print_char(char, out);
    }
    out.push(b'"');
}

pub(crate) fn print_char(char: char, out: &mut Vec<u8>) {
    match char {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\u{c}' => out.extend_from_slice(b"\\f"),
        ' '..='~' => out.push(char as u8),
        _ => {
            for unit in char.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(b"\\u");
                for shift in [12, 8, 4, 0] {
                    out.push(b"0123456789abcdef"[usize::from(*unit >> shift & 0xf)]);
                }
            }
        }
    }
}

/// Where a canonical string ends, from behind its opening quote.
fn string_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at
}

/// Where a canonical value ends that something follows.
fn value_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0);
    loop {
        match bytes[at] {
            b'"' => at += 1 + string_end(&text[at + 1..]),
            b'{' | b'[' => depth += 1,
            b',' | b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Result<String, String> {
        CanonicalText::parse(text.as_bytes(), Limits::default())
            .map(|text| text.as_str().to_owned())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn names_are_sorted_by_code_point_at_every_level() {
        assert_eq!(
            canonical(r#" { "b" : [ {"y":1, "x":2} ] , "a" : 1, "\u0061b":0 } "#).unwrap(),
            r#"{"a":1,"ab":0,"b":[{"x":2,"y":1}]}"#
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, problem) in [
            (r#"{"a":1,"a":2}"#, "an object that repeats a name ends at byte 13"),
            (r#"{"b":1,"a":1,"\u0062":2}"#, "an object that repeats a name ends at byte 24"),
            (r#"["\ud800"]"#, "a lone surrogate at byte 2"),
            (r#"["\udc00"]"#, "a lone surrogate at byte 2"),
            (r#"["\ud800\u0041"]"#, "a lone surrogate at byte 2"),
            (r#"["\u12g4"]"#, "an unknown escape at byte 2"),
            (r#"["\u+123"]"#, "an unknown escape at byte 2"),
            (r#"["\x"]"#, "an unknown escape at byte 2"),
            ("[\"a\u{1}\"]", "a control character in a string at byte 3"),
            ("[1,]", "no JSON value at byte 3"),
            (r#"{"a":1,}"#, "a member's name is missing at byte 7"),
            (r#"{"a" 1}"#, "':' is missing at byte 5"),
            ("[1 2]", "',' or ']' is missing at byte 3"),
            ("", "unexpected end of text at byte 0"),
            ("\"abc", "unexpected end of text at byte 4"),
            ("\"abc\\", "an unknown escape at byte 4"),
            ("nul", "no JSON value at byte 0"),
            ("1 1", "text after the value at byte 2"),
        ] {
            assert_eq!(canonical(text).unwrap_err(), problem, "{text}");
        }
    }

    #[test]
    fn limits_are_exact() {
        let limits = Limits { depth: 3, nodes: 4 };
        let read = |text: &str| CanonicalText::parse(text.as_bytes(), limits).map(drop).map_err(|e| e.problem);
        assert_eq!(read("[[[1]]]"), Ok(()));
        assert_eq!(read("[[[[]]]]"), Err("nested too deeply"));
        assert_eq!(read("[1,2,3]"), Ok(()));
        assert_eq!(read("[1,2,3,4]"), Err("too many values"));
        // What was left is not counted any more.
        let limits = Limits { depth: 2, nodes: 20 };
        let read = |text: &str| CanonicalText::parse(text.as_bytes(), limits).map(drop).map_err(|e| e.problem);
        assert_eq!(read("[[],[],[],[[]]]"), Err("nested too deeply"));
        assert_eq!(read("[[],[],[],[]]"), Ok(()));
        assert_eq!(read(r#"{"a":{},"b":{},"c":{},"d":{}}"#), Ok(()));
    }

    #[test]
    fn members_are_found_by_name() {
        let text = CanonicalText::parse(br#"{"a":{"b":[1,"}"]},"b":"x,\"y","c":-1.5}"#, Limits::default()).unwrap();
        assert_eq!(text.member("a"), Some(r#"{"b":[1,"}"]}"#));
        assert_eq!(text.member("b"), Some(r#""x,\"y""#));
        assert_eq!(text.member("c"), Some("-1.5"));
        assert_eq!(text.member("d"), None);
        let text =
            CanonicalText::parse(br#"{"":0,"a\"b":1,"long":[{"name":"a long \"one\""},2],"z":3}"#, Limits::default());
        let text = text.unwrap();
        assert_eq!((text.member(""), text.member("z")), (Some("0"), Some("3")));
        assert_eq!(text.member("long"), Some(r#"[{"name":"a long \"one\""},2]"#));
        assert_eq!(CanonicalText::empty_object().member("a"), None);
        assert_eq!(CanonicalText::string("x").member("a"), None);
    }
}
