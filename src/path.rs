//! A request's path with one reading, or none.

/// A path in which no two servers see different things: absolute, each segment plain, percent-encoding only where it is
/// needed and always in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normal(String);

impl Normal {
    /// Refused: empty segments, `.` and `..`, encoded slashes, dots, backslashes and control characters, `;`, `\`, and
    /// anything that is no visible ASCII. Encoded letters and digits become themselves.
    pub fn parse(path: &str) -> Option<Self> {
        let mut normal = String::with_capacity(path.len());
        let rest = path.strip_prefix('/')?;
        if rest.is_empty() {
            return Some(Normal("/".to_owned()));
        }
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            // A slash at the end is fine, two in a row are not.
            if segment.is_empty() && segments.peek().is_some() {
                return None;
            }
            normal.push('/');
            let start = normal.len();
            push(segment, &mut normal)?;
            if matches!(&normal[start..], "." | "..") {
                return None;
            }
        }
        Some(Normal(normal))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is this path or below it, by whole segments.
    pub fn is_below(&self, prefix: &str) -> bool {
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        self.0.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether a careless server could take it for this path: without case, and with or without a slash at the end.
    pub fn resembles(&self, path: &str) -> bool {
        let bare = |path: &str| path.trim_end_matches('/').to_ascii_lowercase();
        bare(&self.0) == bare(path)
    }
}

fn push(segment: &str, normal: &mut String) -> Option<()> {
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let value = u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
                match value {
                    b'/' | b'\\' | b'.' | b';' | b'%' | 0..=0x1f | 0x7f => return None,
                    // Unreserved characters, and those that a segment may hold as they are (RFC 3986, `pchar`).
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => normal.push(char::from(value)),
                    _ if b"-_~!$&'()*+,=:@".contains(&value) => normal.push(char::from(value)),
                    _ => normal.push_str(&format!("%{value:02X}")),
                }
            }
            b';' | b'\\' | b'#' | b'?' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => return None,
            0x21..=0x7e => normal.push(char::from(byte)),
            _ => return None,
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_reading_or_none() {
        for (path, normal) in [
            ("/", "/"),
            ("/docs", "/docs"),
            ("/docs/", "/docs/"),
            ("/%64ocs/a%20b", "/docs/a%20b"),
            ("/v1/messages%3asend%40", "/v1/messages:send@"),
            ("/a%c3%a4", "/a%C3%A4"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a..b/...", "/a..b/..."),
        ] {
            assert_eq!(Normal::parse(path).as_ref().map(Normal::as_str), Some(normal), "{path}");
        }
        for path in [
            "",
            "docs",
            "//",
            "//docs",
            "/docs//a",
            "/./a",
            "/docs/../send",
            "/docs/..",
            "/docs/%2e%2e/send",
            "/docs/%2E./send",
            "/docs%2fsend",
            "/docs%5csend",
            "/docs\\send",
            "/docs;x=1/send",
            "/docs%3bx",
            "/docs%00",
            "/docs%0a",
            "/docs%252e",
            "/docs%",
            "/docs%2",
            "/docs%zz",
            "/docs%+1",
            "/do cs",
            "/docs#x",
            "/ä",
        ] {
            assert_eq!(Normal::parse(path), None, "{path}");
        }
    }

    #[test]
    fn prefixes_end_where_segments_end() {
        let path = |text| Normal::parse(text).unwrap();
        assert!(path("/docs").is_below("/docs") && path("/docs/a").is_below("/docs"));
        assert!(path("/docs/a").is_below("/docs/") && path("/x").is_below("/"));
        assert!(!path("/docsx").is_below("/docs") && !path("/doc").is_below("/docs"));
        assert!(path("/Mail/Send/").resembles("/mail/send") && !path("/mail/sent").resembles("/mail/send"));
    }
}
