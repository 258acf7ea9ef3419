//! W3C trace context: who called us, and whom we call (<https://www.w3.org/TR/trace-context/>, version 00).

use uuid::Uuid;

/// A `traceparent` for a request of ours: in the client's trace if it sent a valid one, else in a new one.
pub fn child_of(traceparent: Option<&str>) -> String {
    let span = Uuid::new_v4().as_u64_pair().0;
    match traceparent.and_then(parse) {
        Some((trace, flags)) => format!("00-{trace}-{span:016x}-{flags}"),
        None => format!("00-{}-{span:016x}-00", Uuid::new_v4().simple()),
    }
}

/// The trace's id and the flags.
fn parse(traceparent: &str) -> Option<(&str, &str)> {
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let is_set = |text: &str| is_hex(text) && text.bytes().any(|b| b != b'0');
    let mut parts = traceparent.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = [version.len(), trace.len(), parent.len(), flags.len()] == [2, 32, 16, 2];
    // A later version may have more parts.
    let is_known = is_hex(version) && version != "ff" && (version != "00" || parts.next().is_none());
    (lengths && is_known && is_set(trace) && is_set(parent) && is_hex(flags)).then_some((trace, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_trace_goes_on_and_an_invalid_one_starts_anew() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        let child = child_of(Some(&parent));
        assert!(child.starts_with(&format!("00-{trace}-")) && child.ends_with("-01") && child != parent, "{child}");
        assert!(parse(&child).is_some());
        for wrong in [
            "",
            "00",
            &format!("00-{trace}-00f067aa0ba902b7"),
            &format!("00-{trace}-00f067aa0ba902b7-01-x"),
            &format!("ff-{trace}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
        ] {
            let child = child_of(Some(wrong));
            assert!(parse(&child).is_some() && !child.contains(trace), "{wrong}");
        }
    }
}
