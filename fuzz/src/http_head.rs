//! The head of a request, from the bytes of a connection: one reading, or none.

use std::sync::LazyLock;

use bytes::BytesMut;
use openexec::listen::head::{self, Extent, HeadError, Scan};
use regex::Regex;

use crate::Seen;

/// Reads a connection that arrives at once, and in pieces whose lengths the first bytes say.
///
/// How it arrives changes nothing. What is accepted has the same end, and the same body, for a reader that knows nothing
/// but the strictest grammar.
pub fn check(bytes: &[u8]) -> Seen {
    let Some((pieces, connection)) = bytes.split_at_checked(4) else { return Seen::from(["nothing"]) };
    let at_once = read(connection, [connection.len()].into_iter());
    let in_pieces = read(connection, pieces.iter().map(|&piece| usize::from(piece) + 1).cycle());
    let byte_by_byte = read(connection, std::iter::repeat(1));
    assert_eq!(at_once, in_pieces);
    assert_eq!(at_once, byte_by_byte);
    match at_once {
        None => Seen::from(["incomplete"]),
        Some(Err(_)) => Seen::from(["refused"]),
        Some(Ok((head, extent))) => {
            assert_eq!(Some(extent), strictly(&head), "{:?}", head.escape_ascii().to_string());
            match extent {
                Extent::Chunked => Seen::from(["chunked"]),
                Extent::Bytes(bytes) if bytes > head.len() as u64 => Seen::from(["a body"]),
                Extent::Bytes(_) => Seen::from(["no body"]),
            }
        }
    }
}

type Reading = Option<Result<(Vec<u8>, Extent), HeadError>>;

/// As `Guarded::read_head` does: until a head is whole. `None`: it never is.
fn read(mut connection: &[u8], pieces: impl Iterator<Item = usize>) -> Reading {
    let (mut scan, mut buffer) = (Scan::default(), BytesMut::new());
    for piece in pieces {
        let (arrived, rest) = connection.split_at(piece.min(connection.len()));
        buffer.extend_from_slice(arrived);
        connection = rest;
        match scan.find_end(&mut buffer) {
            Ok(None) if connection.is_empty() => break,
            Ok(None) => {}
            Ok(Some(end)) => {
                let head = buffer[..end].to_vec();
                return Some(head::check(&head).map(|extent| (head, extent)));
            }
            Err(error) => return Some(Err(error)),
        }
    }
    None
}

/// Names that frame, or belong to a connection, and have a `-` for which somebody could send `_`.
const FOLDED: [&[u8]; 7] = [
    b"content-length",
    b"transfer-encoding",
    b"http2-settings",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
];

/// RFC 9112 at its strictest, line by line. `None`: a second server could read something else.
fn strictly(head: &[u8]) -> Option<Extent> {
    let text = head.strip_suffix(b"\r\n\r\n")?;
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    if lines.iter().any(|line| line.is_empty() || line.contains(&b'\r') || line.contains(&b'\n')) {
        return None;
    }
    let request_line: Vec<&[u8]> = lines[0].split(|&byte| byte == b' ').collect();
    let [method, target, version] = request_line[..] else { return None };
    if !is_token(method) || target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return None;
    }
    let one_one = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return None,
    };
    let (mut hosts, mut lengths, mut codings) = (Vec::new(), Vec::new(), Vec::new());
    for line in &lines[1..] {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        if !is_token(name) || value.iter().any(is_control) {
            return None;
        }
        let folded = name.to_ascii_lowercase();
        let dashed: Vec<u8> = folded.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
        if folded != dashed && FOLDED.contains(&&dashed[..]) {
            return None;
        }
        match &folded[..] {
            b"host" => hosts.push(value),
            b"content-length" => lengths.push(value),
            b"transfer-encoding" => codings.push(value.to_ascii_lowercase()),
            _ => {}
        }
    }
    let hosts_are_right = hosts.len() == 1 || (hosts.is_empty() && !one_one);
    if !hosts_are_right || !hosts.iter().all(|host| is_host(host)) || lines.len() > 101 {
        return None;
    }
    static TARGET: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\A(?i-u:https?)://([^/?#]*)([/?][^#]*)?\z").unwrap());
    static ORIGIN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\A/[^#]*\z").unwrap());
    let target = std::str::from_utf8(target).ok()?;
    if method == b"CONNECT" {
        return None;
    }
    if let Some(absolute) = TARGET.captures(target) {
        // In absolute form the target names the host once more.
        if hosts.first().is_some_and(|host| !host.eq_ignore_ascii_case(absolute[1].as_bytes())) {
            return None;
        }
    } else {
        let is_for_the_server = target == "*" && method == b"OPTIONS";
        if !is_for_the_server && !ORIGIN.is_match(target) {
            return None;
        }
    }
    match (&lengths[..], &codings[..]) {
        ([], []) => Some(Extent::Bytes(head.len() as u64)),
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let length: u64 = std::str::from_utf8(length).ok()?.parse().ok()?;
            Some(Extent::Bytes(length.checked_add(head.len() as u64)?))
        }
        ([], [coding]) if coding == b"chunked" && one_one => Some(Extent::Chunked),
        _ => None,
    }
}

/// A name or an address in brackets, and perhaps a port.
fn is_host(host: &[u8]) -> bool {
    static HOST: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\A(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?\z").unwrap());
    std::str::from_utf8(host).is_ok_and(|host| HOST.is_match(host))
}

pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}
