//! What must hold for every value, and what CPython says about thousands of them.

#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Write;
use std::process::{Command, Stdio};

use openexec_protocol::canonical::{CanonicalText, Limits};
use openexec_protocol::receipt::ResultText;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

/// JSON texts of many shapes and spellings.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i128>().prop_map(|i| i.to_string()),
        "-?(0|[1-9][0-9]{0,60})",
        any::<f64>().prop_filter("JSON has no such number", |f| f.is_finite()).prop_map(|f| format!("{f:e}")),
        "-?(0|[1-9][0-9]{0,20})\\.[0-9]{1,25}([eE][+-]?[0-9]{1,2})?",
        (-20..20_i32, 1..10_u32).prop_map(|(e, d)| format!("{d}e{e}")),
        string(),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..8), blank())
                .prop_map(|(items, blank)| format!("[{blank}{}{blank}]", items.join(&format!("{blank},")))),
            (prop::collection::btree_map(any::<String>(), (inner, any::<bool>(), any::<u64>()), 0..8), blank())
                .prop_map(|(members, blank)| {
                    let mut members: Vec<_> = members.into_iter().collect();
                    members.sort_by_key(|(_, (_, _, order))| *order);
                    let members: Vec<String> = members
                        .into_iter()
                        .map(|(name, (value, escape, _))| format!("{}{blank}:{value}", quoted(&name, escape)))
                        .collect();
                    format!("{{{}{blank}}}", members.join(","))
                }),
        ]
    })
}

fn blank() -> impl Strategy<Value = String> {
    "[ \n\t\r]{0,2}"
}

fn string() -> impl Strategy<Value = String> {
    (any::<String>(), any::<bool>()).prop_map(|(text, escape)| quoted(&text, escape))
}

/// A JSON string, with every character escaped or only those that must be.
fn quoted(text: &str, escape: bool) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        if escape || char < ' ' || char == '"' || char == '\\' {
            char.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04X}")));
        } else {
            out.push(char);
        }
    }
    out + "\""
}

fn canonical(text: &str) -> CanonicalText {
    CanonicalText::parse(text.as_bytes(), Limits::default()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

proptest! {
    #[test]
    fn printing_is_a_fixed_point(text in json()) {
        let once = canonical(&text);
        prop_assert!(once.as_str().is_ascii());
        prop_assert_eq!(canonical(once.as_str()), once.clone());
        prop_assert_eq!(canonical(ResultText::from(&once).as_str()), once);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = CanonicalText::parse(&bytes, Limits::default());
    }

    #[test]
    fn any_damage_is_read_or_refused(text in json(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(text) = CanonicalText::parse(&bytes, Limits::default()) {
            prop_assert_eq!(&canonical(text.as_str()), &text);
        }
    }
}

/// The machine's `python3` is the oracle: same canonical text, same result text, for thousands of random values.
#[test]
fn cpython_prints_the_same() {
    const VALUES: usize = 5_000;
    const ORACLE: &str = "
import json, sys
for line in sys.stdin:
    value = json.loads(json.loads(line))
    print(json.dumps(value, sort_keys=True, separators=(',', ':')))
    print(json.dumps(value, sort_keys=True))
";
    let mut runner = TestRunner::new(Config::default());
    let strategy = json();
    let texts: Vec<String> = (0..VALUES).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect();
    let mut python = Command::new("python3")
        .args(["-c", ORACLE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is needed: `make test` installs it");
    let mut input = python.stdin.take().unwrap();
    let lines: String = texts.iter().map(|text| serde_json::to_string(text).unwrap() + "\n").collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let output = String::from_utf8(output.stdout).unwrap();
    let mut printed = output.lines();
    for text in &texts {
        let ours = canonical(text);
        assert_eq!(printed.next(), Some(ours.as_str()), "{text}");
        assert_eq!(printed.next(), Some(ResultText::from(&ours).as_str()), "{text}");
    }
    assert_eq!(printed.next(), None);
}
