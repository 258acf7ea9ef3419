//! Numbers as CPython prints them: integers with all their digits, floats with the shortest that read back.

use std::io::Write;

/// CPython's `sys.int_info.default_max_str_digits`.
const MAX_INTEGER_DIGITS: usize = 4_300;

/// Reads the number (RFC 8259, section 6) that `text` begins with, prints it, and gives its length.
pub(crate) fn print(text: &str, out: &mut Vec<u8>) -> Result<usize, &'static str> {
    let bytes = text.as_bytes();
    let sign = usize::from(bytes.first() == Some(&b'-'));
    let whole = sign + digits(&bytes[sign..]);
    match &bytes[sign..whole] {
        [] => return Err("no JSON value"),
        [b'0', _, ..] => return Err("a number with a leading zero"),
        _ => {}
    }
    let mut end = whole;
    if bytes.get(end) == Some(&b'.') {
        end = some_digits(bytes, end + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let signed = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        end = some_digits(bytes, end + 1 + signed)?;
    }
    if end == whole {
        print_integer(&text[..end], whole - sign, out)?;
    } else {
        print_float(text[..end].parse().expect("JSON's number grammar is within Rust's"), out)?;
    }
    Ok(end)
}

fn digits(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| b.is_ascii_digit()).count()
}

fn some_digits(bytes: &[u8], from: usize) -> Result<usize, &'static str> {
    match digits(&bytes[from.min(bytes.len())..]) {
        0 => Err("a digit is missing"),
        n => Ok(from + n),
    }
}

fn print_integer(text: &str, digits: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
    if digits > MAX_INTEGER_DIGITS {
        return Err("an integer of more than 4300 digits");
    }
    out.extend_from_slice(if text == "-0" { b"0" } else { text.as_bytes() });
    Ok(())
}

/// CPython's `float.__repr__`. Ryū finds the same shortest digits, ties to even included, which the standard
/// library's formatting breaks the other way (990980839286175.25); only the layout differs.
fn print_float(value: f64, out: &mut Vec<u8>) -> Result<(), &'static str> {
    if value.is_infinite() {
        return Err("a number that is too large for a double");
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(value);
    let text = text.strip_prefix('-').inspect(|_| out.push(b'-')).unwrap_or(text);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().expect("Ryū writes a decimal exponent");
    let point = mantissa.find('.').unwrap_or(mantissa.len());
    // The longest is "0.00001234567890123456" or thereabouts: 17 digits and the zeros of Ryū's plain layout.
    let mut digits = [0; 32];
    let mut length = 0;
    for digit in mantissa.bytes().filter(u8::is_ascii_digit) {
        digits[length] = digit;
        length += 1;
    }
    let digits = &digits[..length];
    let zeros = digits.iter().take_while(|&&d| d == b'0').count();
    if zeros == length {
        out.extend_from_slice(b"0.0");
        return Ok(());
    }
    let last = digits.iter().rposition(|&d| d != b'0').expect("not all are zeros");
    lay_out(&digits[zeros..=last], exponent + (point as i32) - (zeros as i32) - 1, out);
    Ok(())
}

/// `digits` with the point behind the first one, times ten to the `exponent`.
fn lay_out(digits: &[u8], exponent: i32, out: &mut Vec<u8>) {
    if !(-4..16).contains(&exponent) {
        out.push(digits[0]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "e{sign}{:02}", exponent.abs()).expect("a Vec takes any text");
        return;
    }
    let zeros = |n: usize| std::iter::repeat_n(b'0', n);
    match usize::try_from(exponent).map(|e| e + 1) {
        Ok(point) if point < digits.len() => {
            out.extend_from_slice(&digits[..point]);
            out.push(b'.');
            out.extend_from_slice(&digits[point..]);
        }
        Ok(point) => {
            out.extend_from_slice(digits);
            out.extend(zeros(point - digits.len()));
            out.extend_from_slice(b".0");
        }
        Err(_) => {
            out.extend_from_slice(b"0.");
            out.extend(zeros(exponent.unsigned_abs() as usize - 1));
            out.extend_from_slice(digits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> Result<String, &'static str> {
        let mut out = Vec::new();
        print(text, &mut out).map(|_| String::from_utf8(out).unwrap())
    }

    #[test]
    fn floats_are_laid_out_as_cpython_does() {
        for (text, expected) in [
            ("0.0", "0.0"),
            ("-0.0", "-0.0"),
            ("-0", "0"),
            ("1e0", "1.0"),
            ("0.1", "0.1"),
            ("0.012", "0.012"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("0.000012", "1.2e-05"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("1.5e300", "1.5e+300"),
            ("123.456", "123.456"),
            ("1e-400", "0.0"),
            ("990980839286175.28357", "990980839286175.2"),
            ("5e-324", "5e-324"),
            ("-1.7976931348623157e308", "-1.7976931348623157e+308"),
        ] {
            assert_eq!(printed(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_number_is_refused() {
        for text in ["-", "01", "-01", "1.", "1.e1", "1e", "1e+", ".5", "+1", "1e999", "-1e999"] {
            // ".5" and "+1" never get here from the reader, which looks at the first byte.
            assert!(printed(text).is_err(), "{text}");
        }
        assert!(printed(&"9".repeat(4_300)).is_ok());
        assert!(printed(&format!("-{}", "9".repeat(4_300))).is_ok());
        assert!(printed(&"9".repeat(4_301)).is_err());
    }
}
