//! Every seed, with the stable toolchain, in `make test`. A seed that was found to break something stays here for ever.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

use openexec_fuzz::{Seen, approval, chunks, config, http_head, ledger, path, request};

/// Replays `seeds/TARGET`, which must bring about everything that is named.
fn replay(target: &str, check: fn(&[u8]) -> Seen, everything: &[&str]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} has no seeds", directory.display());
    let mut seen = Seen::new();
    for seed in &seeds {
        let bytes = std::fs::read(seed).unwrap();
        let outcome = std::panic::catch_unwind(|| check(&bytes));
        seen.extend(outcome.unwrap_or_else(|_| panic!("the property does not hold for {}", seed.display())));
    }
    let missing: Vec<_> = everything.iter().filter(|event| !seen.contains(*event)).collect();
    assert!(missing.is_empty(), "the seeds of {target} do not bring about {missing:?}");
}

#[test]
fn a_body_is_read_in_one_way_or_not_at_all() {
    replay("request", request::check, &["accepted", "an artifact", "a wrong member", "no JSON"]);
}

#[test]
fn a_changed_approval_is_not_authentic() {
    let verdicts = [
        "authentic",
        "signed again",
        "another hash",
        "not authentic",
        "another tenant",
        "another issuer",
        "another form",
    ];
    let times = ["a time", "no time", "signed without a time", "fresh", "expired", "from the future"];
    let ed25519 = ["fresh, by Ed25519", "signed without an end", "good for too long"];
    let others = ["not minted", "a separator is not minted", "signed outside of the grammar", "a member is missing"];
    replay("approval", approval::check, &[&verdicts[..], &times, &ed25519, &others].concat());
}

#[test]
fn a_head_has_one_reading_however_it_arrives() {
    replay("http_head", http_head::check, &["no body", "a body", "chunked", "incomplete", "refused"]);
}

#[test]
fn a_chunked_body_has_one_end_however_it_arrives() {
    replay("chunks", chunks::check, &["whole", "something behind it", "incomplete", "refused"]);
}

#[test]
fn a_configuration_has_the_published_schema_and_tells_no_secrets() {
    replay("config", config::check, &["accepted", "refused", "no YAML"]);
}

#[test]
fn a_path_that_is_accepted_has_one_form() {
    replay("path", path::check, &["accepted as it is", "accepted in another form", "refused"]);
}

#[test]
fn ledgers_do_what_a_list_would() {
    let forgotten = ["a result that was forgotten"];
    let claims = ["a pure action", "an effect", "a known nonce", "a used approval"];
    let outcomes = ["a recorded outcome", "an unknown outcome", "a resolved outcome", "settled by another"];
    let starts = ["a restart", "a crash", "an execution that was left"];
    replay("ledger", ledger::check, &[&claims[..], &outcomes, &forgotten, &starts].concat());
}
