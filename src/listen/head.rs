//! What counts as a request's head. Stricter than Pingora's parser: whatever two servers could read differently is
//! refused, so that nothing in front of or behind us can be made to see another request (RFC 9112, section 11.2).

use bytes::{Buf, BytesMut};

use crate::headers;

/// Header fields of one request.
const MAX_FIELDS: usize = 100;

/// How much of the connection belongs to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The head and a body of known length.
    Bytes(u64),
    /// A chunked body: to where its own framing ends it.
    Chunked,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It could be read in two ways, or in none.
    #[error("Bad HTTP framing: {0}")]
    Framing(&'static str),
    /// More than anybody needs.
    #[error("The request has too many header fields")]
    TooManyFields,
}

/// Finds the end of the head, looking at what came since the last call only.
#[derive(Default)]
pub struct Scan {
    looked_at: usize,
    passed_over: usize,
}

impl Scan {
    /// Bytes of empty lines before it.
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// The head's length, once it is whole. Takes empty lines before it out of the buffer.
    ///
    /// # Errors
    /// A line that ends without a carriage return.
    pub fn find_end(&mut self, buffer: &mut BytesMut) -> Result<Option<usize>, HeadError> {
        // RFC 9112, section 2.2: empty lines before a request line are passed over.
        while self.looked_at == 0 && buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            self.passed_over += 2;
        }
        if &buffer[..] == b"\r" {
            return Ok(None); // half of an empty line, perhaps
        }
        while let Some(found) = buffer[self.looked_at..].iter().position(|&b| b == b'\n') {
            let at = self.looked_at + found;
            if at == 0 || buffer[at - 1] != b'\r' {
                return Err(HeadError::Framing("a line ends without a carriage return"));
            }
            self.looked_at = at + 1;
            if buffer[..at].ends_with(b"\r\n\r") {
                return Ok(Some(at + 1));
            }
        }
        self.looked_at = buffer.len();
        Ok(None)
    }
}

/// Checks a whole head.
///
/// # Errors
/// Whatever is not HTTP/1.0 or HTTP/1.1 with one reading.
pub fn check(head: &[u8]) -> Result<Extent, HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(HeadError::Framing("the header ends in two places")),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
        Err(httparse::Error::Version) => return Err(HeadError::Framing("not HTTP/1.0 or HTTP/1.1")),
        Err(_) => return Err(HeadError::Framing("a malformed request line or header field")),
    }
    let one_one = request.version == Some(1);
    let mut found = Found::default();
    for field in request.headers.iter() {
        found.field(field.name, field.value)?;
    }
    match found.host {
        None if one_one => return Err(HeadError::Framing("no Host")),
        Some(host) if !is_host(host) => return Err(HeadError::Framing("a malformed Host")),
        _ => {}
    }
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    if let Some(authority) = authority(method, target)?
        && found.host.is_some_and(|host| !host.eq_ignore_ascii_case(authority.as_bytes()))
    {
        return Err(HeadError::Framing("the target and Host disagree"));
    }
    match (found.length, found.chunked) {
        (Some(_), true) => Err(HeadError::Framing("both Content-Length and Transfer-Encoding")),
        (None, true) if !one_one => Err(HeadError::Framing("Transfer-Encoding in HTTP/1.0")),
        (None, true) => Ok(Extent::Chunked),
        (length, false) => {
            let length = length.unwrap_or(0).checked_add(head.len() as u64);
            length.map(Extent::Bytes).ok_or(HeadError::Framing("a malformed Content-Length"))
        }
    }
}

/// The fields that decide where a request ends and whom it is for.
#[derive(Default)]
struct Found<'h> {
    host: Option<&'h [u8]>,
    length: Option<u64>,
    chunked: bool,
}

impl<'h> Found<'h> {
    fn field(&mut self, name: &str, value: &'h [u8]) -> Result<(), HeadError> {
        if name.eq_ignore_ascii_case("host") {
            if self.host.replace(value).is_some() {
                return Err(HeadError::Framing("more than one Host"));
            }
        } else if name.eq_ignore_ascii_case("content-length") {
            let length = digits(value).ok_or(HeadError::Framing("a malformed Content-Length"))?;
            if self.length.replace(length).is_some() {
                return Err(HeadError::Framing("more than one Content-Length"));
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::Framing("a Transfer-Encoding other than `chunked`"));
            }
            self.chunked = true;
        } else if name.contains('_') && headers::is_framing(name) {
            return Err(HeadError::Framing("a name that some servers take for a header that frames"));
        }
        Ok(())
    }
}

/// Digits and nothing else: no sign, no list, no blank.
fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A name or an address, and perhaps a port (RFC 9110, section 7.2). Not all that a URI could have there: what others
/// take for a list, user information or an escape is refused.
fn is_host(value: &[u8]) -> bool {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let (name, port) = match value.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !value.ends_with(b"]") => (&value[..colon], &value[colon + 1..]),
        _ => (value, &b""[..]),
    };
    let is_address = |name: &[u8]| name.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
    let is_named = match name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]")) {
        Some(address) => !address.is_empty() && is_address(address),
        None => !name.is_empty() && name.iter().all(is_name),
    };
    is_named && port.iter().all(u8::is_ascii_digit)
}

/// The authority of a target in absolute form; `None` of one that has none. Other forms than RFC 9112, section 3.2, has
/// for a server that is no proxy are refused, and so are fragments, which never are part of a target.
fn authority<'t>(method: &str, target: &'t str) -> Result<Option<&'t str>, HeadError> {
    let malformed = HeadError::Framing("a malformed target");
    if method == "CONNECT" {
        return Err(HeadError::Framing("no tunnels are made here"));
    }
    if target.contains('#') {
        return Err(malformed);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(None);
    }
    let (scheme, rest) = target.split_once("://").ok_or(malformed)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(malformed);
    }
    Ok(Some(rest.split(['/', '?']).next().unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(head: &str) -> Result<Extent, String> {
        check(head.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn one_reading_is_accepted() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(checked(get), Ok(Extent::Bytes(get.len() as u64)));
        let post = "POST /execute HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(checked(post), Ok(Extent::Bytes(post.len() as u64 + 5)));
        assert_eq!(checked("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"), Ok(Extent::Chunked));
        assert!(checked("GET / HTTP/1.0\r\n\r\n").is_ok());
        assert!(checked("GET http://a:1/x HTTP/1.1\r\nHost: A:1\r\n\r\n").is_ok());
        assert!(checked("OPTIONS * HTTP/1.1\r\nHost: [::1]:5000\r\n\r\n").is_ok());
        assert!(checked("GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n").is_ok());
    }

    #[test]
    fn two_readings_are_refused() {
        for (head, problem) in [
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                "both Content-Length",
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                "more than one Content-Length",
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", "malformed Content-Length"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", "malformed Content-Length"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", "malformed Content-Length"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n", "malformed Content-Length"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "Transfer-Encoding other"),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                "Transfer-Encoding other",
            ),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding in HTTP/1.0"),
            ("GET / HTTP/1.1\r\n\r\n", "no Host"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "more than one Host"),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "disagree"),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "malformed target"),
            ("GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "malformed target"),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", "malformed target"),
            ("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", "malformed target"),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "no tunnels"),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "malformed Host"),
            ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", "malformed Host"),
            ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "malformed Host"),
            ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "malformed Host"),
            ("GET / HTTP/1.1\r\nHost: [a/b]\r\n\r\n", "malformed Host"),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 1\r\n\r\n", "a name that some servers"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", "malformed"),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "malformed"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", "malformed"),
            ("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", "malformed"),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "malformed"),
            ("PRI * HTTP/2.0\r\n\r\n", "not HTTP/1.0"),
        ] {
            let refused = checked(head).unwrap_err();
            assert!(refused.contains(problem), "{head:?}: {refused}");
        }
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(MAX_FIELDS));
        assert_eq!(check(many.as_bytes()), Err(HeadError::TooManyFields));
    }

    #[test]
    fn the_end_is_found_however_the_bytes_arrive() {
        let text = b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let (mut scan, mut buffer) = (Scan::default(), BytesMut::new());
        let mut found = None;
        for byte in text {
            buffer.extend_from_slice(&[*byte]);
            found = found.or(scan.find_end(&mut buffer).unwrap());
        }
        assert_eq!(found, Some(text.len() - 8));
        let mut bare = BytesMut::from(&b"GET / HTTP/1.1\nHost: a\n\n"[..]);
        assert!(Scan::default().find_end(&mut bare).is_err());
    }
}
