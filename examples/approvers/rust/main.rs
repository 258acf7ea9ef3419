//! An approver: shows what is proposed, decides, and signs exactly that.
//!
//! Reads a proposed request, the body of POST /execute, from standard input and prints it with its approval. Reading,
//! hashing and signing are the crate `openexec-protocol`'s, which the server verifies with. Ends with 1 where `decide`
//! says no, and with 2 where something cannot be read.

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chrono::{TimeDelta, Utc};
use clap::Parser;
use openexec_protocol::approval::{self, Artifact, HmacKey, PrivateKey, Terms};
use openexec_protocol::canonical::{CanonicalText, Limits};
use openexec_protocol::request::Request;
use openexec_protocol::timestamp;
use uuid::Uuid;
use zeroize::Zeroizing;

/// THE PLACE FOR YOUR POLICY: `Ok` approves, an error says why not.
///
/// This one approves everything. Yours looks at the action and at every member of the payload that matters, or asks a
/// person.
fn decide(_action: &str, _payload: &CanonicalText) -> Result<(), &'static str> {
    Ok(())
}

/// Signs an approval of the request on standard input
#[derive(Parser)]
struct Arguments {
    /// The tenant that the server acts for
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// Sign the HMAC form with this secret
    #[arg(long, value_name = "FILE", required_unless_present = "private_key", conflicts_with = "private_key")]
    key: Option<PathBuf>,
    /// Sign the Ed25519 form with this key, PKCS#8 PEM
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// The key's name, where the server knows several
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
    /// How long an Ed25519 approval is good; an HMAC approval is good for 300 seconds
    // No server takes one that is good for longer than a day.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, conflicts_with = "key",
          value_parser = clap::value_parser!(i64).range(1..=86_400))]
    lifetime: i64,
}

enum Key {
    Hmac(HmacKey),
    Ed25519(PrivateKey),
}

fn main() -> ExitCode {
    match approve(&Arguments::parse()) {
        Ok(Ok(approved)) => {
            println!("{approved}");
            ExitCode::SUCCESS
        }
        Ok(Err(reason)) => {
            eprintln!("approver: not approved: {reason}");
            ExitCode::from(1)
        }
        Err(problem) => {
            eprintln!("approver: {problem}");
            ExitCode::from(2)
        }
    }
}

/// The request with its approval, or why there is none.
fn approve(arguments: &Arguments) -> Result<Result<String, &'static str>, Box<dyn Error>> {
    let key = match (&arguments.key, &arguments.private_key) {
        (Some(path), _) => Key::Hmac(hmac_key(path)?),
        (None, Some(path)) => Key::Ed25519(PrivateKey::from_pem(&Zeroizing::new(read(path)?))?),
        (None, None) => return Err("one of --key and --private-key is needed".into()),
    };
    let mut body = Vec::new();
    std::io::stdin().read_to_end(&mut body)?;
    // Refuses JSON that can be read in more than one way.
    let request = Request::parse(&body, Limits::default())?;
    // Both are plain ASCII: nothing in them can move a cursor.
    eprintln!("action   {}\npayload  {}", string(request.action()), request.payload().as_str());
    if let Err(reason) = decide(request.action(), request.payload()) {
        return Ok(Err(reason));
    }
    Ok(Ok(with_approval(&request, &sign(&key, &request, arguments)?)))
}

fn sign(key: &Key, request: &Request, arguments: &Arguments) -> Result<Artifact, approval::MintError> {
    let now = Utc::now();
    let terms = Terms {
        approval_id: &Uuid::now_v7().to_string(),
        tenant_id: &arguments.tenant,
        issued_at: &timestamp::print(now),
        kid: arguments.kid.as_deref(),
    };
    match key {
        Key::Hmac(key) => approval::mint(key, request.action_hash(), &terms),
        Key::Ed25519(key) => {
            let expires_at = timestamp::print(now + TimeDelta::seconds(arguments.lifetime));
            approval::mint_ed25519(key, request.action_hash(), &terms, &expires_at)
        }
    }
}

/// Members that no approval covers are not passed on.
fn with_approval(request: &Request, artifact: &Artifact) -> String {
    format!(
        r#"{{"action":{},"approval_artifact":{},"nonce":{},"payload":{}}}"#,
        string(request.action()),
        artifact.to_json(),
        string(request.nonce()),
        request.payload().as_str()
    )
}

fn string(text: &str) -> String {
    CanonicalText::string(text).as_str().to_owned()
}

/// As OpenExec reads it: less one newline at the end, which an editor or `echo` put there.
fn hmac_key(path: &Path) -> Result<HmacKey, Box<dyn Error>> {
    let text = Zeroizing::new(read(path)?);
    let key = text.strip_suffix('\n').map_or(text.as_str(), |key| key.strip_suffix('\r').unwrap_or(key));
    if key.trim_start().starts_with("-----BEGIN") {
        return Err(format!("{} is a PEM text: sign with --private-key", path.display()).into());
    }
    if key.is_empty() { Err(format!("{} is empty", path.display()).into()) } else { Ok(HmacKey::new(key.as_bytes())) }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}
