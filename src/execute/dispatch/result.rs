//! From an upstream's answer to a result: read whole, kept if it is not too large, JSON if it is JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{header, response};
use openexec_protocol::canonical::{CanonicalText, Limits};
use openexec_protocol::receipt::ResultText;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::RESERVED_BYTES;
use crate::beside::beside;
use crate::listen::Permit;
use crate::upstream::Response;

/// A whole answer.
pub(super) struct Collected {
    pub(super) head: response::Parts,
    body: Body,
}

enum Body {
    Kept(Vec<u8>),
    /// Over the kept size, or over the memory that there was; the hash is there if all of it was read.
    Large {
        bytes: usize,
        sha256: Option<[u8; 32]>,
    },
}

/// Reads to the end, or to `read_bytes`, which is an answer too: it will not become a better one. What is over
/// `kept_bytes`, or over the memory that is left, is hashed and not held. `None`: it ended early, or is malformed.
pub(super) async fn collect(
    mut response: Response,
    read_bytes: usize,
    kept_bytes: usize,
    memory: &Permit,
) -> Option<Collected> {
    // 101: nobody asked for another protocol, and what comes behind it is no HTTP.
    if response.head.status.as_u16() < 200 {
        return None;
    }
    let mut kept = Vec::new();
    let mut large: Option<(usize, Sha256)> = None;
    while let Some(piece) = response.next().await {
        let piece = piece.ok()?;
        let before = large.as_ref().map_or(kept.len(), |(bytes, _)| *bytes);
        let bytes = before + piece.len();
        if bytes > read_bytes {
            let head = response.head;
            return Some(Collected { head, body: Body::Large { bytes: read_bytes, sha256: None } });
        }
        match &mut large {
            Some((count, hash)) => {
                *count = bytes;
                hash.update(&piece);
            }
            None if bytes > kept_bytes || !memory.grow_to(bytes) => {
                let mut hash = Sha256::new();
                hash.update(std::mem::take(&mut kept));
                hash.update(&piece);
                large = Some((bytes, hash));
                memory.shrink_to(RESERVED_BYTES);
            }
            None => kept.extend_from_slice(&piece),
        }
    }
    let body = match large {
        Some((bytes, hash)) => Body::Large { bytes, sha256: Some(hash.finalize().into()) },
        None => Body::Kept(kept),
    };
    Some(Collected { head: response.done(), body })
}

/// The result: the JSON value, or a document that holds the body, or one that describes it.
pub(super) async fn text(collected: Collected, kept_bytes: usize, memory: &Permit) -> ResultText {
    let Collected { head, body } = collected;
    let kept = match body {
        Body::Large { bytes, sha256 } => return truncated(bytes, sha256),
        Body::Kept(kept) => kept,
    };
    let (kept, text) = beside(kept.len(), move || {
        let text = whole(&head, &kept);
        (kept, text)
    })
    .await;
    if text.as_str().len() <= kept_bytes && memory.grow_to(text.as_str().len()) {
        return text;
    }
    let bytes = kept.len();
    truncated(bytes, Some(beside(bytes, move || Sha256::digest(&kept).into()).await))
}

fn whole(head: &response::Parts, kept: &[u8]) -> ResultText {
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_plain = !head.headers.contains_key(header::CONTENT_ENCODING);
    let parsed = (is_plain && content_type.is_some_and(is_json)).then(|| CanonicalText::parse(kept, JSON).ok());
    match parsed.flatten() {
        Some(value) => ResultText::from(&value),
        None => document(match std::str::from_utf8(kept) {
            Ok(text) if is_plain => json!({"content_type": content_type, "body": text}),
            _ => json!({"content_type": content_type, "body_base64": STANDARD.encode(kept)}),
        }),
    }
}

/// As deep as a request may be; its size is bounded already.
const JSON: Limits = Limits { depth: 64, nodes: usize::MAX };

fn truncated(bytes: usize, sha256: Option<[u8; 32]>) -> ResultText {
    let mut described = json!({"truncated": true, "bytes": bytes});
    if let Some(sha256) = sha256 {
        described["sha256"] = sha256.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    }
    document(described)
}

fn document(document: serde_json::Value) -> ResultText {
    let canonical = CanonicalText::parse(document.to_string().as_bytes(), JSON).expect("a document of ours is JSON");
    ResultText::from(&canonical)
}

/// `application/json` or `application/...+json`, in UTF-8 (RFC 8259, section 8.1).
fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
    let essence = parts.next().unwrap_or_default();
    let is_json = essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    is_json
        && parts.all(|parameter| match parameter.split_once('=') {
            Some(("charset", charset)) => charset.trim_matches('"') == "utf-8",
            _ => true,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_names_and_is_utf_8() {
        for json in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/problem+json;charset=\"utf-8\"",
            "application/json; profile=x",
        ] {
            assert!(is_json(json), "{json}");
        }
        for other in ["text/json", "application/jsonp", "text/html", "", "application/json; charset=latin1"] {
            assert!(!is_json(other), "{other}");
        }
    }
}
