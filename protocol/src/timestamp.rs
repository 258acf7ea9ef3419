//! The one spelling of time that approvals use.

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};

/// Reads `\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)?` when it names a real instant; without
/// an offset it is UTC.
///
/// By hand, since `chrono`'s own parser takes years of other lengths, signs and leap seconds.
pub fn parse(text: &str) -> Option<DateTime<Utc>> {
    let bytes = text.as_bytes();
    let mark = |at: usize, mark: u8| (bytes.get(at) == Some(&mark)).then_some(());
    let number = |from: usize, to: usize| digits(bytes.get(from..to)?);
    mark(4, b'-')?;
    mark(7, b'-')?;
    mark(10, b'T').or(mark(10, b' '))?;
    mark(13, b':')?;
    mark(16, b':')?;
    let date = NaiveDate::from_ymd_opt(number(0, 4)? as i32, number(5, 7)?, number(8, 10)?)?;
    if date.year() == 0 {
        return None; // no such year in ISO 8601's calendar as CPython knows it
    }
    let (nanos, rest) = fraction(bytes.get(19..)?)?;
    let time = NaiveTime::from_hms_nano_opt(number(11, 13)?, number(14, 16)?, number(17, 19)?, nanos)?;
    let offset = offset(rest)?;
    Some(date.and_time(time).and_utc() - TimeDelta::seconds(offset.local_minus_utc().into()))
}

/// The time as `openexec mint` writes it: UTC, microseconds, `Z`.
pub fn print(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn digits(bytes: &[u8]) -> Option<u32> {
    bytes.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0')))
}

fn fraction(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let Some(rest) = bytes.strip_prefix(b".") else { return Some((0, bytes)) };
    let length = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let scale = 9_u32.checked_sub(u32::try_from(length).ok()?)?;
    let value = digits(&rest[..length]).filter(|_| length > 0)?;
    Some((value * 10_u32.pow(scale), &rest[length..]))
}

fn offset(bytes: &[u8]) -> Option<FixedOffset> {
    let (sign, hours, minutes) = match bytes {
        [] | [b'Z'] => return FixedOffset::east_opt(0),
        [b'+', h @ .., b':', m1, m2] => (1, h, [*m1, *m2]),
        [b'-', h @ .., b':', m1, m2] => (-1, h, [*m1, *m2]),
        _ => return None,
    };
    let hours = digits(hours).filter(|_| hours.len() == 2)?;
    let minutes = digits(&minutes).filter(|&m| m < 60)?;
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_grammar_allows_is_read() {
        for (text, instant) in [
            ("2026-02-17T10:08:22", "2026-02-17T10:08:22.000000Z"),
            ("2026-02-17 10:08:22.5Z", "2026-02-17T10:08:22.500000Z"),
            ("2026-02-17T10:08:22.123456789+02:00", "2026-02-17T08:08:22.123456Z"),
            ("2026-02-17T00:08:22-23:59", "2026-02-18T00:07:22.000000Z"),
            ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59.000000Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(parse(text).map(print).as_deref(), Some(instant), "{text}");
        }
    }

    #[test]
    fn anything_else_is_not() {
        for text in [
            "",
            "yesterday",
            "2026-02-17",
            "2026-02-30T10:00:00",
            "2026-13-01T00:00:00",
            "2025-02-29T00:00:00",
            "2026-02-17T24:00:00",
            "2026-02-17T23:59:60",
            "2026-02-17T10:60:00",
            "2026-2-17T10:00:00",
            "+2026-02-17T10:00:00",
            "12026-02-17T10:00:00",
            "0000-01-01T00:00:00",
            "2026-02-17t10:00:00",
            "2026-02-17T10:00:00z",
            "2026-02-17T10:00:00.",
            "2026-02-17T10:00:00.1234567890",
            "2026-02-17T10:00:00+2:00",
            "2026-02-17T10:00:00+0200",
            "2026-02-17T10:00:00+24:00",
            "2026-02-17T10:00:00+02:60",
            "2026-02-17T10:00:00 Z",
            " 2026-02-17T10:00:00",
            "2026-02-17T10:00:00Z ",
            "2026-02-17T10:00:00Zé",
            "２０２６-02-17T10:00:00",
            "2026-02-17T10:00",
            "2026-02-17T10:00:00.+02:00",
            "2026-02-17T10:00:00+123:00",
            "2026-02-17T10:00:0é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
