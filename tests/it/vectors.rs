//! The contract's vectors against the server, over a socket. (Against the library: `protocol/tests/vectors.rs`.)

use serde_json::Value;

use crate::support::{Client, Setup, vectors};

fn rows(value: &Value) -> &Vec<Value> {
    let rows = value.as_array().unwrap();
    assert!(!rows.is_empty());
    rows
}

#[test]
fn canonical_requests_are_executed_as_they_were_hashed() {
    let server = Setup::demo().start();
    for (at, row) in rows(&vectors("canonical.json")).iter().enumerate() {
        let name = row["name"].as_str().unwrap();
        let body = row["body"].as_str().unwrap();
        // They share a nonce.
        let nonce = body.rfind(r#""nonce":"n""#).or(body.find(r#""nonce":"n""#)).unwrap();
        let body = format!("{}\"nonce\":\"n{at}\"{}", &body[..nonce], &body[nonce + r#""nonce":"n""#.len()..]);
        let response = server.execute(&body);
        if name == "action is not ASCII" {
            response.must_be(400, "unknown_action", "Unknown action: envïar");
            continue;
        }
        response.must_be_executed(false);
        // {"echo": payload}, in the receipts' spelling: without its blanks it is the canonical text again.
        let canonical = row["canonical"].as_str().unwrap();
        let payload = &canonical[r#"{"action":"echo","payload":"#.len()..canonical.len() - 1];
        let text = response.text();
        let result = text.split_once(r#""result":"#).unwrap().1.rsplit_once(r#","approved""#).unwrap().0;
        let respelled = openexec_protocol::canonical::CanonicalText::parse(result.as_bytes(), Default::default());
        assert_eq!(respelled.unwrap().as_str(), format!(r#"{{"echo":{payload}}}"#), "{name}");
        let id = response.header("openexec-execution-id").unwrap();
        let receipt = openexec_protocol::receipt::receipt(id, result);
        assert_eq!(response.header("openexec-receipt"), Some(receipt.as_str()), "{name}");
    }
}

#[test]
fn what_has_two_readings_is_refused() {
    let server = Setup::demo().start();
    for row in rows(&vectors("refused.json")) {
        let body: Vec<u8> =
            row["body_latin1"].as_str().unwrap().chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        let head = format!(
            "POST /execute HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let response = server.client().send([head.as_bytes(), &body].concat()).unwrap();
        response.must_be(u16::try_from(row["status"].as_u64().unwrap()).unwrap(), "invalid_request", "");
    }
    server.must_be_well();
}

#[test]
fn receipts_verify() {
    let server = Setup::demo().start();
    let verify = |claim: Value| {
        let response = server.client().post("/receipts/verify", &claim.to_string()).unwrap();
        assert_eq!(response.status, 200);
        response.json()["valid"].as_bool().unwrap()
    };
    for row in rows(&vectors("receipts.json")) {
        let claim =
            |receipt: &str| serde_json::json!({"exec_id": row["id"], "result": row["result_text"], "receipt": receipt});
        let receipt = row["receipt"].as_str().unwrap();
        assert!(verify(claim(receipt)));
        assert!(!verify(claim(&receipt.replace(|c: char| c.is_ascii_digit(), "0"))));
    }
}

#[test]
fn approvals_have_the_verdict_and_the_code() {
    have_verdicts("approvals.json", "CLAWSHIELD_SECRET_KEY", "secret_key");
}

#[test]
fn ed25519_approvals_have_the_verdict_and_the_code() {
    have_verdicts("approvals-ed25519.json", "CLAWSHIELD_PUBLIC_KEY", "public_key_pem");
}

fn have_verdicts(file: &str, variable: &'static str, key: &str) {
    let vectors = vectors(file);
    for row in rows(&vectors["cases"]) {
        // A ledger of its own for each, since they share a nonce and an approval.
        let server = Setup::clawshield()
            .without("CLAWSHIELD_SECRET_KEY")
            .with(variable, vectors[key].as_str().unwrap())
            .with("CLAWSHIELD_TENANT_ID", vectors["tenant_id"].as_str().unwrap())
            .at(vectors["now"].as_str().unwrap())
            .start();
        let mut body: Value = serde_json::from_str(row["body"].as_str().unwrap()).unwrap();
        body["approval_artifact"] = row["approval_artifact"].clone();
        let response = Client::connect(server.address).execute(&body.to_string());
        match row["code"].as_str() {
            None => drop(response.must_be_executed(false)),
            Some(code) => response.must_be(403, code, ""),
        }
    }
}
