//! Reads JSON text once, front to back, and prints the canonical text while it reads.

use crate::canonical::{JsonError, Limits, print_char};
use crate::number;

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
            Some(b'{') => self.object_body(out, |reader, _, out| reader.value(out), true),
            Some(b'[') => self.array(out),
            Some(b'-' | b'0'..=b'9') => self.number(out),
            Some(b't') => self.literal("true", out),
            Some(b'f') => self.literal("false", out),
            Some(b'n') => self.literal("null", out),
            Some(_) => Err(self.error("no JSON value")),
            None => Err(self.error("unexpected end of text")),
        }
    }

    /// An object whose members' values `member` reads; it is called at each value. Every name must be new. What is
    /// printed of it is of no use to anybody, and not put in order.
    pub(crate) fn object<F>(&mut self, unused: &mut Vec<u8>, member: F) -> Result<(), JsonError>
    where
        F: FnMut(&mut Self, Key, &mut Vec<u8>) -> Result<(), JsonError>,
    {
        self.count_node()?;
        self.object_body(unused, member, false)
    }

    fn object_body<F>(&mut self, out: &mut Vec<u8>, mut member: F, in_order: bool) -> Result<(), JsonError>
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
            self.sort_members(first_member)?;
            if in_order {
                self.put_in_order(first_member, body, out);
            }
        }
        self.members.truncate(first_member);
        self.names.truncate(first_name);
        self.depth -= 1;
        out.push(b'}');
        Ok(())
    }

    /// By the code points of their names, which is the byte order of their UTF-8. Names that are equal are refused.
    fn sort_members(&mut self, first: usize) -> Result<(), JsonError> {
        let (text, names) = (self.text, self.names.as_str());
        let members = &mut self.members[first..];
        members.sort_unstable_by(|a, b| decoded(text, names, a.key).cmp(decoded(text, names, b.key)));
        if members.windows(2).any(|pair| decoded(text, names, pair[0].key) == decoded(text, names, pair[1].key)) {
            return Err(self.error("an object that repeats a name ends"));
        }
        Ok(())
    }

    /// What was printed of the members, from `body` on, in their order.
    fn put_in_order(&mut self, first: usize, body: usize, out: &mut Vec<u8>) {
        self.scratch.clear();
        for member in &self.members[first..] {
            if !self.scratch.is_empty() {
                self.scratch.push(b',');
            }
            self.scratch.extend_from_slice(&out[member.start..member.end]);
        }
        out.truncate(body);
        out.extend_from_slice(&self.scratch);
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
