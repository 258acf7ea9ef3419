//! What counts as a chunked body (RFC 9112, section 7.1). Stricter than Pingora's parser, which takes a line without a
//! size for the last chunk, lets an extension go on behind a bare LF, and does not look at trailers. Whatever two
//! servers could read differently is refused before Pingora has it.

use crate::headers;

/// Digits of a size: as many as a signed number of 64 bits holds, so that nobody's overflows.
const SIZE_DIGITS: usize = 15;

/// It is no chunked body, or two servers could find different ends of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a malformed chunked body")]
pub struct Malformed;

/// Follows a chunked body to its end.
#[derive(Debug)]
pub struct Chunks {
    at: At,
    /// As much as there is of a line.
    line: Vec<u8>,
    /// Bytes that extensions and trailers may still have, all together.
    spare: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Head(u64),
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    End,
}

impl Chunks {
    /// Behind a head of so many bytes. `spare`: bytes of extensions and trailers, all together.
    pub fn behind(head: usize, spare: usize) -> Self {
        Chunks { at: At::Head(head as u64), line: Vec::new(), spare }
    }

    /// Whether all of it was seen.
    pub fn is_over(&self) -> bool {
        self.at == At::End
    }

    /// Goes on through these bytes; how many of them belong to the request. The head comes alone: it is good, whatever is
    /// behind it.
    ///
    /// # Errors
    /// Bytes after which two servers could find different ends.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut rest = bytes;
        while let [byte, behind @ ..] = rest {
            match &mut self.at {
                At::End => break,
                At::Head(left) => {
                    let count = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= count as u64;
                    if *left == 0 {
                        self.at = At::Size;
                    }
                    return Ok(count);
                }
                At::Data(left) => {
                    let count = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= count as u64;
                    rest = &rest[count..];
                    if *left == 0 {
                        self.at = At::DataEnd;
                    }
                }
                At::DataEnd | At::Size | At::Trailers => {
                    self.line.push(*byte);
                    rest = behind;
                    self.go_on()?;
                }
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// With one byte more in the line.
    fn go_on(&mut self) -> Result<(), Malformed> {
        if self.at == At::DataEnd && !b"\r\n".starts_with(&self.line) {
            return Err(Malformed);
        }
        if self.line.len() > SIZE_DIGITS + 2 + self.spare {
            return Err(Malformed);
        }
        if !self.line.ends_with(b"\n") {
            return Ok(());
        }
        let mut line = std::mem::take(&mut self.line);
        let text = line.strip_suffix(b"\r\n").ok_or(Malformed)?;
        self.at = match self.at {
            At::Size => {
                let (size, extensions) = size(text)?;
                self.spare = self.spare.checked_sub(extensions).ok_or(Malformed)?;
                if size == 0 { At::Trailers } else { At::Data(size) }
            }
            At::Trailers if text.is_empty() => At::End,
            At::Trailers => {
                self.spare = self.spare.checked_sub(line.len()).ok_or(Malformed)?;
                line.extend_from_slice(b"\r\n");
                trailer(&line)?;
                At::Trailers
            }
            At::DataEnd | At::Head(_) | At::Data(_) | At::End => At::Size,
        };
        // Keeps the room for the next line.
        line.clear();
        self.line = line;
        Ok(())
    }
}

/// A chunk's size, and how long its extensions are. Nobody here wants those, but where they end must be beyond doubt.
/// Blanks before them, which the grammar allows for the sake of old senders, were read in many ways: refused.
fn size(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at(digits);
    let is_text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    let is_plain = extensions.is_empty() || extensions.starts_with(b";");
    if digits.is_empty() || digits.len() > SIZE_DIGITS || !is_plain || !extensions.iter().all(is_text) {
        return Err(Malformed);
    }
    let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    Ok((size.ok_or(Malformed)?, extensions.len()))
}

/// Trailers are thrown away. One that would have meant something in the header could mean it to somebody else
/// (RFC 9110, section 6.5.1). `field` ends with an empty line.
fn trailer(field: &[u8]) -> Result<(), Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; 1];
    let Ok(httparse::Status::Complete((_, [field]))) = httparse::parse_headers(field, &mut fields) else {
        return Err(Malformed);
    };
    let name = field.name;
    let is_forbidden = headers::is_framing(name) || headers::is_override(name) || headers::is_imitation(name);
    if is_forbidden { Err(Malformed) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body's length, whole and byte by byte: both must be the same.
    fn length(bytes: &str) -> Result<Option<usize>, Malformed> {
        let bytes = format!("HEAD{bytes}");
        let mut whole = Chunks::behind(4, 100);
        assert_eq!(whole.follow(bytes.as_bytes()), Ok(4));
        let at_once = whole.follow(&bytes.as_bytes()[4..]).map(|count| whole.is_over().then_some(count));
        let mut pieces = Chunks::behind(4, 100);
        let one_by_one = bytes.bytes().try_fold(0, |sum, byte| pieces.follow(&[byte]).map(|count| sum + count));
        assert_eq!(at_once, one_by_one.map(|sum| pieces.is_over().then_some(sum - 4)), "{bytes:?}");
        at_once
    }

    #[test]
    fn a_body_ends_where_it_says() {
        for (body, behind) in [
            ("0\r\n\r\n", ""),
            ("0\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"),
            ("3\r\nabc\r\n00\r\n\r\n", "x"),
            ("A;x=y;z=\"a;b\"\r\n0123456789\r\n0;last\r\nX-Sum: 1\r\nY:\r\n\r\n", "0\r\n\r\n"),
            ("000000000000002\r\n\r\n\r\n0\r\n\r\n", ""),
        ] {
            assert_eq!(length(&format!("{body}{behind}")), Ok(Some(body.len())), "{body:?}");
        }
        for open in ["", "3", "3\r", "3\r\nab", "3\r\nabc", "3\r\nabc\r\n", "0\r\n", "0\r\n\r", "0\r\nX: y\r\n"] {
            assert_eq!(length(open), Ok(None), "{open:?}");
        }
    }

    #[test]
    fn what_two_servers_could_read_differently_is_no_body() {
        let long = "x".repeat(150);
        for body in [
            "\r\n\r\n",
            ";x\r\n\r\n",
            " 3\r\nabc\r\n",
            "3 \r\nabc\r\n",
            "3 ;x\r\nabc\r\n",
            "+3\r\nabc\r\n",
            "-3\r\nabc\r\n",
            "0x3\r\nabc\r\n",
            "3_\r\nabc\r\n",
            "3\nabc\r\n",
            "3\rabc\r\n",
            "3;x\ny\r\nabc\r\n",
            "3;x\ry\r\nabc\r\n",
            "3;\0\r\nabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabc0\r\n\r\n",
            "8000000000000000\r\n",
            "0000000000000003\r\nabc\r\n",
            "0\r\n\n",
            "0\n\n",
            "0\r\nX\r\n\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\n X: y\r\n\r\n",
            "0\r\nX: y\r\n z\r\n\r\n",
            "0\r\nContent-Length: 3\r\n\r\n",
            "0\r\ntransfer_encoding: chunked\r\n\r\n",
            "0\r\nHost: b\r\n\r\n",
            &format!("3;{long}\r\nabc\r\n"),
            &format!("0\r\nX: {long}\r\n\r\n"),
            &format!("0\r\n{}\r\n", "X: yyyyyyyyyyyyyyyyyyyy\r\n".repeat(10)),
            &"1;xxxxxxxxxxxxxxxxxxxx\r\na\r\n".repeat(10),
        ] {
            assert_eq!(length(body), Err(Malformed), "{body:?}");
        }
    }
}
