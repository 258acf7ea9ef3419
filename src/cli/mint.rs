//! `openexec mint`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use humantime_serde::re::humantime::parse_duration;
use openexec_protocol::approval::{self, Artifact, HmacKey, PrivateKey, Terms};
use openexec_protocol::canonical::{CanonicalText, Limits};
use openexec_protocol::request::Request;
use openexec_protocol::timestamp;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{USAGE, fail, input};
use crate::config::env::{self, Environment, ProcessEnvironment};

/// What to sign, and how.
#[derive(clap::Args)]
pub(super) struct Mint {
    /// The request to approve, as it would be sent to POST /execute; `-` reads standard input
    #[arg(value_name = "FILE")]
    request: PathBuf,
    /// The tenant that the server acts for
    #[arg(long, env = env::TENANT_ID, value_name = "ID")]
    tenant: String,
    /// The approval's own name [default: a new UUID]
    #[arg(long, value_name = "ID")]
    approval_id: Option<String>,
    /// When it is issued, as 2026-02-17T10:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    issued_at: Option<String>,
    /// Sign in the Ed25519 form with this private key, a PEM file as `openexec keys generate` writes it, instead of in
    /// the HMAC form
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// How long an Ed25519 approval is good, such as 5m, at most 24h; an HMAC approval is good for 5 minutes
    #[arg(long, value_name = "TIME", default_value = "5m", requires = "private_key", value_parser = lifetime)]
    lifetime: Duration,
    /// The key's name, where the server knows several
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
    /// Print the artifact alone, without the request
    #[arg(long)]
    artifact_only: bool,
}

impl Mint {
    pub(super) fn run(self) -> ExitCode {
        match self.mint() {
            Ok(text) => {
                say!("{text}");
                ExitCode::SUCCESS
            }
            Err(problem) => fail(problem, USAGE),
        }
    }

    fn mint(self) -> Result<String, String> {
        let body = input::read(&self.request)?;
        let request = Request::parse(&body, Limits::default()).map_err(|e| e.to_string())?;
        let issued_at = self.issued_at.unwrap_or_else(|| timestamp::print(Utc::now()));
        let terms = Terms {
            approval_id: &self.approval_id.unwrap_or_else(|| Uuid::now_v7().to_string()),
            tenant_id: &self.tenant,
            issued_at: &issued_at,
            kid: self.kid.as_deref(),
        };
        let hash = request.action_hash();
        let artifact = match &self.private_key {
            Some(path) => {
                let until = timestamp::parse(&issued_at)
                    .zip(TimeDelta::from_std(self.lifetime).ok())
                    .and_then(|(issued_at, lifetime)| issued_at.checked_add_signed(lifetime));
                let expires_at = timestamp::print(until.ok_or("--issued-at and --lifetime name no time")?);
                approval::mint_ed25519(&private_key(path)?, hash, &terms, &expires_at)
            }
            None => approval::mint(&secret_key()?, hash, &terms),
        };
        let artifact = artifact.map_err(|e| e.to_string())?;
        Ok(if self.artifact_only { artifact.to_json() } else { approved(&request, &artifact) })
    }
}

/// No server accepts more.
fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = parse_duration(text).map_err(|e| e.to_string())?;
    if lifetime > Duration::from_secs(86_400) { Err("at most 24h".to_owned()) } else { Ok(lifetime) }
}

fn private_key(path: &Path) -> Result<PrivateKey, String> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(|e| format!("{}: {e}", path.display()))?;
    PrivateKey::from_pem(&text).map_err(|e| format!("{} holds {e}", path.display()))
}

fn secret_key() -> Result<HmacKey, String> {
    let key = ProcessEnvironment.secret(env::SECRET_KEY)?.filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| format!("{} is not set, and there is no --private-key", env::SECRET_KEY))?;
    if key.trim_start().starts_with("-----BEGIN") {
        return Err(format!("{} is a PEM text, and an HMAC key is none: sign with --private-key", env::SECRET_KEY));
    }
    Ok(HmacKey::new(key.as_bytes()))
}

/// The request with its approval, ready to be sent.
fn approved(request: &Request, artifact: &Artifact) -> String {
    let string = |text: &str| CanonicalText::string(text).as_str().to_owned();
    format!(
        r#"{{"action":{},"payload":{},"nonce":{},"approval_artifact":{}}}"#,
        string(request.action()),
        request.payload().as_str(),
        string(request.nonce()),
        artifact.to_json()
    )
}
