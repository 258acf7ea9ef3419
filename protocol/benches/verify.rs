//! What a request costs before anything is stored: 1 KiB parsed, spelled canonically, hashed and verified.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use chrono::{DateTime, Utc};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use openexec_protocol::approval::{self, Artifact, HmacKey, Key, Material, PrivateKey, Terms, Verifier};
use openexec_protocol::canonical::Limits;
use openexec_protocol::receipt::{self, ResultText};
use openexec_protocol::request::Request;

/// A payment as an agent would propose it, 1 KiB with its approval.
fn body(approve: impl Fn(&Request) -> Artifact) -> Vec<u8> {
    let mut payload = String::from(
        r#"{"to":"GB33BUKB20201555555555","amount":1250.75,"currency":"EUR","reference":"invoice 2026-117","urgent":false,"lines":[{"sku":"A-17","qty":3,"price":99.5},{"sku":"B-02","qty":12,"price":79.35}],"note":""#,
    );
    let artifact = |payload: &str| {
        let proposal = format!(r#"{{"action":"echo","payload":{payload},"nonce":"n"}}"#);
        approve(&Request::parse(proposal.as_bytes(), Limits::default()).unwrap()).to_json()
    };
    let rest = artifact(r#"{}"#).len() + 90;
    let text = "The quick brown fox pays the lazy dog. ";
    while payload.len() + rest < 1_020 {
        payload.push_str(&text[..text.len().min(1_022 - payload.len() - rest)]);
    }
    payload.push_str("\"}");
    let artifact = artifact(&payload);
    let body = format!(
        r#"{{"action":"echo","payload":{payload},"nonce":"5b1b4ed6-4d3e-4c0a-8d7f-0e3f6a1f2b3c","approval_artifact":{artifact}}}"#
    );
    assert!((1_000..1_100).contains(&body.len()), "{}", body.len());
    body.into_bytes()
}

fn verify(c: &mut Criterion) {
    let terms = Terms {
        approval_id: "8a2f5c1e-0f6f-4d0a-9a55-6f6f0c1f7b11",
        tenant_id: "tenant-001",
        issued_at: "2026-02-17T10:08:22.123456Z",
        kid: None,
    };
    let secret = HmacKey::new(b"0123456789abcdef0123456789abcdef");
    let private = PrivateKey::from_seed(&[7; 32]);
    let by_hmac = body(|request| approval::mint(&secret, request.action_hash(), &terms).unwrap());
    let by_ed25519 = body(|request| {
        approval::mint_ed25519(&private, request.action_hash(), &terms, "2026-02-17T10:13:22Z").unwrap()
    });
    let mut group = c.benchmark_group("1 KiB");
    group.throughput(Throughput::Bytes(by_hmac.len() as u64));
    for (form, body, material) in [
        ("HMAC", &by_hmac, Material::Hmac(secret.clone())),
        ("Ed25519", &by_ed25519, Material::Ed25519(private.public())),
    ] {
        let verifier = Verifier { tenant_id: "tenant-001".to_owned(), keys: vec![Key::always(material)] };
        group.bench_function(format!("parse, canonical text, hash, verify {form}"), |b| {
            b.iter(|| {
                let request = Request::parse(black_box(body), Limits::default()).unwrap();
                let artifact = request.artifact().unwrap();
                approval::authenticate(artifact, request.action_hash(), &verifier, DateTime::<Utc>::UNIX_EPOCH).unwrap()
            });
        });
    }
    group.bench_function("parse, canonical text, hash", |b| {
        b.iter(|| Request::parse(black_box(&by_hmac), Limits::default()).unwrap());
    });
    let request = Request::parse(&by_hmac, Limits::default()).unwrap();
    group.bench_function("result text and receipt", |b| {
        b.iter(|| {
            let result = ResultText::from(black_box(request.payload()));
            receipt::receipt("3f0e9a52-7c1d-4b8e-9d55-0d6f1e2a3b4c", result.as_str())
        });
    });
    group.finish();
}

criterion_group!(benches, verify);
criterion_main!(benches);
