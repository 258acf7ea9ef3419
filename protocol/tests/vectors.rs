//! The contract as data, which CPython wrote: `tests/vectors/` of the workspace.

#![allow(missing_docs, clippy::unwrap_used)]

use chrono::TimeDelta;
use openexec_protocol::approval::{self, HmacKey, Key, Material, PublicKey, Verifier};
use openexec_protocol::canonical::{CanonicalText, Limits};
use openexec_protocol::receipt::{self, ResultText};
use openexec_protocol::refusal::{Code, Refusal};
use openexec_protocol::request::{Request, action_hash};
use openexec_protocol::timestamp;
use serde_json::Value;

fn vectors(name: &str) -> Value {
    let path = format!("{}/../tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn rows(value: &Value) -> &Vec<Value> {
    let rows = value.as_array().unwrap();
    assert!(!rows.is_empty());
    rows
}

fn text<'v>(row: &'v Value, member: &str) -> &'v str {
    row[member].as_str().unwrap()
}

#[test]
fn canonical_text_and_hash_are_cpythons() {
    for row in rows(&vectors("canonical.json")) {
        let request = Request::parse(text(row, "body").as_bytes(), Limits::default()).unwrap();
        let whole = format!(
            r#"{{"action":{},"payload":{}}}"#,
            CanonicalText::string(request.action()).as_str(),
            request.payload().as_str()
        );
        assert_eq!(whole, text(row, "canonical"), "{}", text(row, "name"));
        assert_eq!(request.action_hash().as_str(), text(row, "action_hash"), "{}", text(row, "name"));
        assert_eq!(action_hash(request.action(), request.payload()), *request.action_hash());
    }
}

#[test]
fn what_has_two_readings_is_refused() {
    for row in rows(&vectors("refused.json")) {
        let body: Vec<u8> = text(row, "body_latin1").chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        assert!(Request::parse(&body, Limits::default()).is_err(), "{}", text(row, "name"));
    }
}

#[test]
fn receipts_are_cpythons() {
    for row in rows(&vectors("receipts.json")) {
        let result = CanonicalText::parse(text(row, "result").as_bytes(), Limits::default()).unwrap();
        let result = ResultText::from(&result);
        assert_eq!(result.as_str(), text(row, "result_text"));
        assert_eq!(receipt::receipt(text(row, "id"), result.as_str()), text(row, "receipt"));
        assert!(receipt::verify(text(row, "id"), result.as_str(), text(row, "receipt")));
        assert!(!receipt::verify(text(row, "id"), text(row, "result_text"), &text(row, "receipt").to_uppercase()));
    }
}

#[test]
fn approvals_have_the_verdict_and_the_code() {
    let vectors = vectors("approvals.json");
    assert_eq!(vectors["ttl_seconds"], approval::HMAC_LIFETIME_SECONDS);
    have_verdicts(&vectors, Material::Hmac(HmacKey::new(text(&vectors, "secret_key").as_bytes())));
}

#[test]
fn ed25519_approvals_have_the_verdict_and_the_code() {
    let vectors = vectors("approvals-ed25519.json");
    have_verdicts(&vectors, Material::Ed25519(PublicKey::from_pem(text(&vectors, "public_key_pem")).unwrap()));
}

fn have_verdicts(vectors: &Value, material: Material) {
    let tenant_id = text(vectors, "tenant_id").to_owned();
    let verifier = Verifier { tenant_id, keys: vec![Key::always(material)] };
    let now = timestamp::parse(text(vectors, "now")).unwrap();
    let skew = TimeDelta::seconds(vectors["clock_skew_seconds"].as_i64().unwrap());
    for row in rows(&vectors["cases"]) {
        let mut body: Value = serde_json::from_str(text(row, "body")).unwrap();
        body["approval_artifact"] = row["approval_artifact"].clone();
        let request = Request::parse(body.to_string().as_bytes(), Limits::default()).unwrap();
        let code = match request.artifact() {
            None => Some(Code::ApprovalMissing),
            Some(artifact) => approval::authenticate(artifact, request.action_hash(), &verifier, now)
                .and_then(|authentic| authentic.check_time(now, skew, TimeDelta::hours(24)))
                .err()
                .map(|denial| Refusal::from(denial).code),
        };
        assert_eq!(code.map(Code::as_str), row["code"].as_str(), "{}", text(row, "name"));
        assert_eq!(code.is_none(), text(row, "verdict") == "execute");
    }
}
