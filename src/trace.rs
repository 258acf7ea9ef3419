//! W3C trace context: who called us, and whom we call (<https://www.w3.org/TR/trace-context/>, version 00).

use std::fmt;

use http::HeaderMap;
use uuid::Uuid;

/// A span in a trace, as a `traceparent` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Never zero.
    pub trace_id: u128,
    /// Never zero.
    pub span_id: u64,
    /// The lowest bit says that the trace is recorded.
    pub flags: u8,
}

/// The bit of [`Context::flags`] that says that whoever called records the trace.
pub const SAMPLED: u8 = 1;

impl Context {
    /// The client's, if it sent exactly one that is valid.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut found = headers.get_all("traceparent").iter();
        match (found.next(), found.next()) {
            (Some(traceparent), None) => Context::parse(traceparent.to_str().ok()?),
            _ => None,
        }
    }

    /// Reads a `traceparent`.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut parts = traceparent.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lengths = [version.len(), trace.len(), parent.len(), flags.len()] == [2, 32, 16, 2];
        // A later version may have more parts.
        let is_known = version != "ff" && (version != "00" || parts.next().is_none());
        if !lengths || !is_known || ![version, trace, parent, flags].into_iter().all(is_hex) {
            return None;
        }
        let context = Context {
            trace_id: u128::from_str_radix(trace, 16).ok()?,
            span_id: u64::from_str_radix(parent, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        (context.trace_id != 0 && context.span_id != 0).then_some(context)
    }

    /// A new span: in the trace of its parent, with its flags, or in a new trace that nobody records.
    pub fn child_of(parent: Option<Context>) -> Self {
        let (trace_id, flags) =
            parent.map_or_else(|| (Uuid::new_v4().as_u128(), 0), |parent| (parent.trace_id, parent.flags));
        Context { trace_id, span_id: new_span_id(), flags }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// A span's id. Not zero: its version is in it.
pub fn new_span_id() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}

/// The most bytes of a `tracestate` that go on (section 3.3.1.5 asks for at least so many).
const STATE_BYTES: usize = 512;
/// The most members of a `tracestate` (section 3.3.1.1).
const STATE_MEMBERS: usize = 32;

/// The client's `tracestate`, if it is a valid one (section 3.3.1).
pub fn state_of(headers: &HeaderMap) -> Option<String> {
    let values: Option<Vec<&str>> = headers.get_all("tracestate").iter().map(|value| value.to_str().ok()).collect();
    let state = values?.join(",");
    is_state(&state).then_some(state)
}

fn is_state(state: &str) -> bool {
    let is_key = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/@".contains(&b);
    let is_value = |b: u8| (b' '..=b'~').contains(&b) && b != b'=';
    let is_member = |member: &str| match member.trim_matches([' ', '\t']).split_once('=') {
        Some((key, value)) => {
            let begins = key.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            begins && key.len() <= 256 && key.bytes().all(is_key) && !value.is_empty() && value.bytes().all(is_value)
        }
        None => member.trim_matches([' ', '\t']).is_empty(),
    };
    let members = || state.split(',');
    state.len() <= STATE_BYTES
        && members().count() <= STATE_MEMBERS
        && members().any(|member| member.contains('='))
        && members().all(is_member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_trace_goes_on_and_an_invalid_one_starts_anew() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        assert_eq!(Context::parse(&parent).unwrap().to_string(), parent);
        let child = Context::child_of(Context::parse(&parent)).to_string();
        assert!(child.starts_with(&format!("00-{trace}-")) && child.ends_with("-01") && child != parent, "{child}");
        assert!(Context::parse(&child).is_some());
        for wrong in [
            "",
            "00",
            &format!("00-{trace}-00f067aa0ba902b7"),
            &format!("00-{trace}-00f067aa0ba902b7-01-x"),
            &format!("ff-{trace}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{trace}-{}-01", "0".repeat(16)),
            &format!("00-{trace}-+0f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
        ] {
            assert_eq!(Context::parse(wrong), None, "{wrong}");
        }
        let fresh = Context::child_of(None);
        assert_eq!((Context::parse(&fresh.to_string()), fresh.flags), (Some(fresh), 0));
    }

    #[test]
    fn a_state_is_a_list_or_does_not_go_on() {
        for state in ["a=1", "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE", "0t@v=x y", "a=1,,b=2"] {
            assert!(is_state(state), "{state}");
        }
        let long = format!("a={}", "x".repeat(STATE_BYTES));
        let many = vec!["a=1"; STATE_MEMBERS + 1].join(",");
        for wrong in ["", ",", "a", "a=", "=1", "A=1", "a=1=2", "a=é", "_a=1", &long, &many] {
            assert!(!is_state(wrong), "{wrong}");
        }
    }
}
