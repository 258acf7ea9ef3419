//! A chunked body, from the bytes behind a head: one end, or none.

use std::sync::LazyLock;

use openexec::listen::chunks::{Chunks, Malformed};
use regex::bytes::Regex;

use crate::Seen;
use crate::http_head::is_token;

/// What extensions and trailers may have, all together.
const SPARE: usize = 64;
const HEAD: &[u8] = b"HEAD";

/// Follows a body that arrives at once, and in pieces whose lengths the first bytes say.
///
/// How it arrives changes nothing. A body that is over ends where it does for a reader that has all of it before it and
/// knows nothing but the strictest grammar; that reader finds no end in what is refused.
pub fn check(bytes: &[u8]) -> Seen {
    let Some((pieces, body)) = bytes.split_at_checked(4) else { return Seen::from(["nothing"]) };
    let at_once = follow(body, [body.len()].into_iter());
    let in_pieces = follow(body, pieces.iter().map(|&piece| usize::from(piece) + 1).cycle());
    let byte_by_byte = follow(body, std::iter::repeat(1));
    assert_eq!(at_once, in_pieces);
    assert_eq!(at_once, byte_by_byte);
    let found = at_once.unwrap_or(None);
    assert_eq!(found, strictly(body), "{}", body.escape_ascii());
    match at_once {
        Err(Malformed) => Seen::from(["refused"]),
        Ok(None) => Seen::from(["incomplete"]),
        Ok(Some(end)) if end < body.len() => Seen::from(["something behind it"]),
        Ok(Some(_)) => Seen::from(["whole"]),
    }
}

/// Where it ends. `None`: nowhere yet.
fn follow(mut body: &[u8], pieces: impl Iterator<Item = usize>) -> Result<Option<usize>, Malformed> {
    let mut chunks = Chunks::behind(HEAD.len(), SPARE);
    assert_eq!(chunks.follow(HEAD), Ok(HEAD.len()));
    let mut end = 0;
    for piece in pieces {
        let (arrived, rest) = body.split_at(piece.min(body.len()));
        body = rest;
        let ours = chunks.follow(arrived)?;
        end += ours;
        if chunks.is_over() {
            return Ok(Some(end));
        }
        assert_eq!(ours, arrived.len(), "an open body has all that comes");
        if body.is_empty() {
            break;
        }
    }
    Ok(None)
}

/// RFC 9112, section 7.1, at its strictest. `None`: no end, or one that a second server could find elsewhere.
fn strictly(body: &[u8]) -> Option<usize> {
    static SIZE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?-u)\A([0-9A-Fa-f]{1,15})((?:;[\t -~\x80-\xff]*)?)\r\n").unwrap());
    let mut at = 0;
    let mut spare = SPARE;
    loop {
        let line = SIZE.captures(&body[at..])?;
        spare = spare.checked_sub(line[2].len())?;
        at += line[0].len();
        let size = usize::from_str_radix(std::str::from_utf8(&line[1]).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        let end = at.checked_add(size)?;
        if body.get(end..end.checked_add(2)?)? != b"\r\n" {
            return None;
        }
        at = end + 2;
    }
    loop {
        let length = body[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let line = &body[at..at + length];
        at += length + 2;
        if line.is_empty() {
            return Some(at);
        }
        spare = spare.checked_sub(length + 2)?;
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        if !is_token(name) || value.iter().any(is_control) || means_something(name) {
            return None;
        }
    }
}

/// What no trailer may be. The lists are `headers.rs`'s own: to write them down once more would show nothing.
fn means_something(name: &[u8]) -> bool {
    let name = std::str::from_utf8(name).unwrap_or_default();
    openexec::headers::is_framing(name) || openexec::headers::is_override(name) || openexec::headers::is_imitation(name)
}
