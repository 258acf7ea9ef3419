//! Which headers cross the gate. Names are compared as servers fold them: without case, and `_` like `-`.

/// Headers that belong to one connection (RFC 9110, section 7.6.1), or that frame a message.
const FRAMING: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Headers that make some servers see another method or path than we saw, or another client.
const OVERRIDES: [&str; 20] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-method",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-path",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-uri",
    "x-real-ip",
    "x-client-ip",
    "x-host",
    "x-accel-redirect",
    "x-sendfile",
];

fn matches(name: &str, known: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == known.len() && name.bytes().map(fold).eq(known.bytes())
}

/// What only we say: about an execution, and its key.
pub fn is_ours(name: &str) -> bool {
    const PREFIX: &str = "openexec-";
    name.get(..PREFIX.len()).is_some_and(|start| matches(start, PREFIX))
        || ["idempotency-key", "traceparent", "content-type"].iter().any(|ours| matches(name, ours))
}

/// What a client must not imitate when its request is passed through.
pub fn is_imitation(name: &str) -> bool {
    const PREFIX: &str = "openexec-";
    name.get(..PREFIX.len()).is_some_and(|start| matches(start, PREFIX))
}

/// What belongs to a connection or frames a message.
pub fn is_framing(name: &str) -> bool {
    FRAMING.iter().any(|known| matches(name, known))
}

/// What makes a server see another request than we saw.
pub fn is_override(name: &str) -> bool {
    OVERRIDES.iter().any(|known| matches(name, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_as_servers_fold_them() {
        for name in ["OpenExec-Tenant", "openexec_tenant", "OPENEXEC-X", "OpenExec-"] {
            assert!(is_imitation(name) && is_ours(name), "{name}");
        }
        assert!(!is_imitation("openexe") && !is_imitation("x-openexec-y"));
        assert!(is_framing("Transfer_Encoding") && is_framing("HOST") && !is_framing("hosts"));
        assert!(is_override("X_HTTP_Method-Override") && !is_override("x-request-id"));
        assert!(is_ours("Idempotency_Key"));
    }
}
