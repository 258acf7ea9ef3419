//! Strict JSON in, canonical text out, in one pass and without a tree.
//!
//! An approval covers a SHA-256, so two programs must print the same bytes for the same value, and no text may
//! have two readings. The canonical text is what CPython prints for
//! `json.dumps(value, sort_keys=True, separators=(",", ":"))`: it is the oracle of the tests, and nothing here
//! asks what would be nicer. Building a tree first was rejected: it costs more than all the rest of a request.

use crate::number;

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

/// The decoded name of a member: a slice of the input, or of the arena when it was written with escapes.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    start: usize,
    end: usize,
    unescaped: bool,
}

struct Member {
    key: Key,
    start: usize,
    end: usize,
}

/// Reads JSON text once, front to back, and prints what it reads.
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    limits: Limits,
    depth: usize,
    nodes: usize,
    /// Members of the objects that are open now, innermost last.
    members: Vec<Member>,
    /// Decoded names that were written with escapes.
    names: String,
    /// Where members change places.
    scratch: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a [u8], limits: Limits) -> Result<Self, JsonError> {
        let text =
            std::str::from_utf8(text).map_err(|e| JsonError { problem: "not UTF-8", offset: e.valid_up_to() })?;
        Ok(Reader {
            text,
            at: 0,
            limits,
            depth: 0,
            nodes: 0,
            members: Vec::new(),
            names: String::new(),
            scratch: Vec::new(),
        })
    }

    /// Nothing but white space may follow.
    pub(crate) fn end(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("text after the value")),
        }
    }

    pub(crate) fn error(&self, problem: &'static str) -> JsonError {
        JsonError { problem, offset: self.at }
    }

    /// The next byte that is no white space.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    pub(crate) fn value(&mut self, out: &mut Vec<u8>) -> Result<(), JsonError> {
        self.count_node()?;
        match self.peek() {
            Some(b'"') => self.string(out).map(drop),
            Some(b'{') => self.object_body(out, |reader, _, out| reader.value(out)),
            Some(b'[') => self.array(out),
            Some(b'-' | b'0'..=b'9') => self.number(out),
            Some(b't') => self.literal("true", out),
            Some(b'f') => self.literal("false", out),
            Some(b'n') => self.literal("null", out),
            Some(_) => Err(self.error("no JSON value")),
            None => Err(self.error("unexpected end of text")),
        }
    }

    /// An object whose members' values `member` reads; it is called at each value. Every name must be new.
    pub(crate) fn object<F>(&mut self, out: &mut Vec<u8>, member: F) -> Result<(), JsonError>
    where
        F: FnMut(&mut Self, Key, &mut Vec<u8>) -> Result<(), JsonError>,
    {
        self.count_node()?;
        self.object_body(out, member)
    }

    fn object_body<F>(&mut self, out: &mut Vec<u8>, mut member: F) -> Result<(), JsonError>
    where
        F: FnMut(&mut Self, Key, &mut Vec<u8>) -> Result<(), JsonError>,
    {
        self.enter()?;
        out.push(b'{');
        let body = out.len();
        let first_member = self.members.len();
        let first_name = self.names.len();
        let mut increasing = true;
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                if self.peek() != Some(b'"') {
                    return Err(self.error("a member's name is missing"));
                }
                let start = out.len();
                let key = self.string(out)?;
                if let Some(previous) = self.members[first_member..].last() {
                    increasing &= self.name(previous.key) < self.name(key);
                }
                if self.peek() != Some(b':') {
                    return Err(self.error("':' is missing"));
                }
                self.at += 1;
                out.push(b':');
                member(self, key, out)?;
                self.members.push(Member { key, start, end: out.len() });
                match self.peek() {
                    Some(b',') => out.push(b','),
                    Some(b'}') => {}
                    _ => return Err(self.error("',' or '}' is missing")),
                }
                self.at += 1;
                if self.text.as_bytes()[self.at - 1] == b'}' {
                    break;
                }
            }
        }
        if !increasing {
            self.sort_members(first_member, body, out)?;
        }
        self.members.truncate(first_member);
        self.names.truncate(first_name);
        self.depth -= 1;
        out.push(b'}');
        Ok(())
    }

    /// Puts the members that were printed from `body` on into code-point order of their names, which is the byte
    /// order of their UTF-8.
    fn sort_members(&mut self, first: usize, body: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
        let (text, names) = (self.text, self.names.as_str());
        let members = &mut self.members[first..];
        members.sort_unstable_by(|a, b| decoded(text, names, a.key).cmp(decoded(text, names, b.key)));
        if members.windows(2).any(|pair| decoded(text, names, pair[0].key) == decoded(text, names, pair[1].key)) {
            return Err(self.error("an object that repeats a name ends"));
        }
        self.scratch.clear();
        for member in members.iter() {
            if !self.scratch.is_empty() {
                self.scratch.push(b',');
            }
            self.scratch.extend_from_slice(&out[member.start..member.end]);
        }
        out.truncate(body);
        out.extend_from_slice(&self.scratch);
        Ok(())
    }

    pub(crate) fn name(&self, key: Key) -> &str {
        decoded(self.text, &self.names, key)
    }

    fn array(&mut self, out: &mut Vec<u8>) -> Result<(), JsonError> {
        self.enter()?;
        out.push(b'[');
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            loop {
                self.value(out)?;
                match self.peek() {
                    Some(b',') => out.push(b','),
                    Some(b']') => {}
                    _ => return Err(self.error("',' or ']' is missing")),
                }
                self.at += 1;
                if self.text.as_bytes()[self.at - 1] == b']' {
                    break;
                }
            }
        }
        self.depth -= 1;
        out.push(b']');
        Ok(())
    }

    /// Reads a string at its opening quote, prints it, and tells where its decoded form is.
    pub(crate) fn string(&mut self, out: &mut Vec<u8>) -> Result<Key, JsonError> {
        out.push(b'"');
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        let bytes = self.text.as_bytes();
        loop {
            let rest = &bytes[self.at..];
            let run = plain_run(rest);
            out.extend_from_slice(&rest[..run]);
            self.at += run;
            match bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    print_char(self.escape()?, out);
                }
                Some(0x7f..) => {
                    let char = self.text[self.at..].chars().next().expect("a byte is left");
                    self.at += char.len_utf8();
                    print_char(char, out);
                }
                Some(_) => return Err(self.error("a control character in a string")),
                None => return Err(self.error("unexpected end of text")),
            }
        }
        let raw = start..self.at;
        self.at += 1;
        out.push(b'"');
        if !escaped {
            return Ok(Key { start: raw.start, end: raw.end, unescaped: false });
        }
        let end = self.at;
        self.at = raw.start;
        let name = self.names.len();
        while self.at < raw.end {
            let char = match bytes[self.at] {
                b'\\' => self.escape()?,
                _ => {
                    let char = self.text[self.at..].chars().next().expect("a byte is left");
                    self.at += char.len_utf8();
                    char
                }
            };
            self.names.push(char);
        }
        self.at = end;
        Ok(Key { start: name, end: self.names.len(), unescaped: true })
    }

    /// Reads an escape at its backslash; a surrogate pair is one.
    fn escape(&mut self) -> Result<char, JsonError> {
        let char = match self.text.as_bytes().get(self.at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.error("an unknown escape")),
        };
        self.at += 2;
        Ok(char)
    }

    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let unit = self.hex4(self.at)?;
        let (code, length) = match unit {
            0xd800..=0xdbff => match self.hex4(self.at + 6) {
                Ok(low @ 0xdc00..=0xdfff) => (0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00), 12),
                _ => return Err(self.error("a lone surrogate")),
            },
            _ => (unit, 6),
        };
        let char = char::from_u32(code).ok_or_else(|| self.error("a lone surrogate"))?;
        self.at += length;
        Ok(char)
    }

    /// The four digits of a `\u` escape whose backslash is at `at`.
    fn hex4(&self, at: usize) -> Result<u32, JsonError> {
        let escape = self.text.as_bytes().get(at..at + 6);
        let Some([b'\\', b'u', digits @ ..]) = escape else {
            return Err(self.error("an unknown escape"));
        };
        digits.iter().try_fold(0, |code, &digit| {
            let value = char::from(digit).to_digit(16).ok_or_else(|| self.error("an unknown escape"))?;
            Ok(code << 4 | value)
        })
    }

    fn number(&mut self, out: &mut Vec<u8>) -> Result<(), JsonError> {
        let start = self.at;
        let length = number::print(&self.text[start..], out).map_err(|problem| self.error(problem))?;
        self.at = start + length;
        Ok(())
    }

    pub(crate) fn literal(&mut self, word: &'static str, out: &mut Vec<u8>) -> Result<(), JsonError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.error("no JSON value"));
        }
        self.at += word.len();
        out.extend_from_slice(word.as_bytes());
        Ok(())
    }

    pub(crate) fn count_node(&mut self) -> Result<(), JsonError> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            return Err(self.error("too many values"));
        }
        Ok(())
    }

    fn enter(&mut self) -> Result<(), JsonError> {
        self.depth += 1;
        if self.depth > self.limits.depth {
            return Err(self.error("nested too deeply"));
        }
        self.at += 1;
        Ok(())
    }
}

fn decoded<'t>(text: &'t str, names: &'t str, key: Key) -> &'t str {
    let source = if key.unescaped { names } else { text };
    &source[key.start..key.end]
}

/// How many bytes from the start stand for themselves in canonical text: printable ASCII but `"` and `\`.
///
/// Eight at a time, since most of a request is such bytes. A lane's high bit is set where the byte is another; carries
/// and borrows only reach lanes behind one that is set already, so the first is always right.
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let is_zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut run = 0;
    for chunk in bytes.chunks_exact(8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks are of eight bytes"));
        let control = word.wrapping_sub(ONES * 0x20);
        let delete = word.wrapping_add(ONES);
        let quote = is_zero(word ^ (ONES * u64::from(b'"')));
        let backslash = is_zero(word ^ (ONES * u64::from(b'\\')));
        let other = (word | control | delete | quote | backslash) & HIGH;
        if other != 0 {
            return run + (other.trailing_zeros() / 8) as usize;
        }
        run += 8;
    }
    let is_plain = |b: &&u8| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\');
    run + bytes[run..].iter().take_while(is_plain).count()
}

fn print_string(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for char in value.chars() {
        print_char(char, out);
    }
    out.push(b'"');
}

fn print_char(char: char, out: &mut Vec<u8>) {
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
    }

    #[test]
    fn a_plain_run_ends_at_every_other_byte_in_every_lane() {
        for other in (0..=u8::MAX).filter(|b| !matches!(b, b' '..=b'~') || matches!(b, b'"' | b'\\')) {
            for at in 0..20 {
                for fill in [b' ', b'!', b'#', b'[', b']', b'~', b'a'] {
                    let mut bytes = [fill; 24];
                    bytes[at] = other;
                    bytes[at + 1] = other;
                    assert_eq!(plain_run(&bytes), at, "{other:#x} at {at}");
                }
            }
        }
        let plain: Vec<u8> = (b' '..=b'~').filter(|b| !matches!(b, b'"' | b'\\')).collect();
        assert_eq!(plain_run(&plain), plain.len());
    }

    #[test]
    fn members_are_found_by_name() {
        let text = CanonicalText::parse(br#"{"a":{"b":[1,"}"]},"b":"x,\"y","c":-1.5}"#, Limits::default()).unwrap();
        assert_eq!(text.member("a"), Some(r#"{"b":[1,"}"]}"#));
        assert_eq!(text.member("b"), Some(r#""x,\"y""#));
        assert_eq!(text.member("c"), Some("-1.5"));
        assert_eq!(text.member("d"), None);
        assert_eq!(CanonicalText::empty_object().member("a"), None);
        assert_eq!(CanonicalText::string("x").member("a"), None);
    }
}
