//! `openexec mint`

use std::path::PathBuf;
use std::process::ExitCode;

use chrono::Utc;
use openexec_protocol::approval::{self, Artifact, HmacKey, Terms};
use openexec_protocol::canonical::{CanonicalText, Limits};
use openexec_protocol::request::Request;
use openexec_protocol::timestamp;
use uuid::Uuid;

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
    /// The approval's own name [default: a random UUID]
    #[arg(long, value_name = "ID")]
    approval_id: Option<String>,
    /// When it is issued, as 2026-02-17T10:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    issued_at: Option<String>,
    /// Print the artifact alone, without the request
    #[arg(long)]
    artifact_only: bool,
}

impl Mint {
    pub(super) fn run(self) -> ExitCode {
        match self.mint() {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(problem) => fail(problem, USAGE),
        }
    }

    fn mint(self) -> Result<String, String> {
        let body = input::read(&self.request)?;
        let request = Request::parse(&body, Limits::default()).map_err(|e| e.to_string())?;
        let key = ProcessEnvironment
            .secret(env::SECRET_KEY)?
            .filter(|key| !key.is_empty())
            .ok_or_else(|| format!("{} is not set", env::SECRET_KEY))?;
        let terms = Terms {
            approval_id: &self.approval_id.unwrap_or_else(|| Uuid::new_v4().to_string()),
            tenant_id: &self.tenant,
            issued_at: &self.issued_at.unwrap_or_else(|| timestamp::print(Utc::now())),
        };
        let artifact =
            approval::mint(&HmacKey::new(key.as_bytes()), request.action_hash(), &terms).map_err(|e| e.to_string())?;
        Ok(if self.artifact_only { artifact.to_json() } else { approved(&request, &artifact) })
    }
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
