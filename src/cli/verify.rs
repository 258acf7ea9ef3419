//! `openexec verify`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chrono::Utc;
use openexec_protocol::approval;
use openexec_protocol::canonical::{CanonicalText, Limits};
use openexec_protocol::receipt::{self, ResultText};
use openexec_protocol::request::Request;

use super::{BAD_CONFIGURATION, USAGE, fail, input};
use crate::config::env::{self, Environment, ProcessEnvironment};
use crate::config::{Config, Mode};

/// A request is small, an answer may hold a large result.
const ANSWER_LIMITS: Limits = Limits { depth: 128, nodes: 10_000_000 };

#[derive(clap::Subcommand)]
pub(super) enum Verify {
    /// Go through every check of a request's approval, a line a check
    ///
    /// With the server's configuration and environment, its tenants and their keys above all. Only
    /// the server's ledger knows whether the approval was used already. Exit code 78 if the configuration is not good.
    Approval {
        /// The request with its `approval_artifact`; `-` reads standard input
        #[arg(value_name = "FILE")]
        request: PathBuf,
    },
    /// Check the receipt of an answer of POST /execute
    ///
    /// Needs no server and no key: a receipt proves that id and result belong together, not who said so.
    Receipt {
        /// The answer, as it came; `-` reads standard input
        #[arg(value_name = "FILE")]
        answer: PathBuf,
    },
}

impl Verify {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        match self {
            Verify::Approval { request } => approval(&request, config),
            Verify::Receipt { answer } => receipt(&answer),
        }
    }
}

/// Prints a line a check, and does not stop at the first that fails.
fn approval(path: &Path, config: Option<&Path>) -> ExitCode {
    let body = match input::read(path) {
        Ok(body) => body,
        Err(problem) => return fail(problem, USAGE),
    };
    let mode = ProcessEnvironment.get(env::MODE);
    let environment = AsClawShield(mode);
    let config = match Config::load(config, &environment) {
        Ok(config) => config,
        Err(error) => return fail(error, BAD_CONFIGURATION),
    };
    let tenants = match &config.mode {
        Mode::ClawShield { tenants: Ok(tenants) } => tenants,
        Mode::ClawShield { tenants: Err(missing) } => {
            return fail(format!("{missing} not configured"), BAD_CONFIGURATION);
        }
        Mode::Demo { .. } => return fail("demo mode ignores approvals", BAD_CONFIGURATION),
    };
    let mut good = true;
    let mut line = |question: &str, outcome: Result<String, String>| {
        good &= outcome.is_ok();
        let (mark, detail) = match outcome {
            Ok(detail) => ("yes", detail),
            Err(problem) => ("NO ", problem),
        };
        say!("{mark}  {question}{}{detail}", if detail.is_empty() { "" } else { ": " });
    };
    let request = Request::parse(&body, config.limits.json);
    line("the request can be read in one way only", request.as_ref().map(|_| String::new()).map_err(|e| e.to_string()));
    if let Ok(request) = &request {
        say!("     its action hash is {}", request.action_hash().as_str());
        let registered = config.actions.contains_key(request.action());
        line("the action is registered", if registered { Ok(String::new()) } else { Err("Unknown action".to_owned()) });
        match request.artifact() {
            None => line("there is an approval", Err("ClawShield mode requires an approval artifact".to_owned())),
            Some(artifact) => {
                let named = tenants.iter().find(|tenant| tenant.verifier.tenant_id == artifact.tenant_id);
                let tenant = named.or(tenants.first()).expect("there is one at least");
                if named.is_none() && tenants.len() > 1 {
                    line(
                        "the tenant is one of the server's",
                        Err(format!("no tenant {:?} is configured", artifact.tenant_id)),
                    );
                }
                if let Some(kid) = &artifact.kid
                    && !tenant.verifier.keys.iter().any(|key| key.id.as_ref() == Some(kid))
                {
                    line("the tenant has the key that is named", Err(format!("no key {kid:?} is configured")));
                }
                let (verifier, now) = (&tenant.verifier, Utc::now());
                for (step, outcome) in approval::explain(artifact, request.action_hash(), verifier, now) {
                    line(step.question(), outcome.map(|()| String::new()).map_err(|e| e.to_string()));
                }
                match approval::authenticate(artifact, request.action_hash(), verifier, now) {
                    Ok(authentic) => {
                        let key = authentic.key_id().map(|id| format!("by the key {id}")).unwrap_or_default();
                        let time = authentic.check_time(now, config.clock_skew, config.max_lifetime);
                        line("it is fresh now", time.map(|_| key).map_err(|e| e.to_string()));
                    }
                    Err(_) => say!("---  it is fresh now: asked only of an authentic approval"),
                }
                let allowed = &tenant.allowed_actions;
                let allows = allowed.as_ref().is_none_or(|allowed| allowed.contains(request.action()));
                line(
                    "the tenant may do it",
                    if allows { Ok(String::new()) } else { Err("not in the tenant's allow-list".to_owned()) },
                );
            }
        }
        let allowed = config.allowed_actions.as_ref().is_none_or(|allowed| allowed.contains(request.action()));
        line(
            "the action is allowed",
            if allowed { Ok(String::new()) } else { Err("not in the execution allow-list".to_owned()) },
        );
        say!(
            "     whether it was used already, or was issued before the ledger's fence, only the server's ledger knows"
        );
    }
    ExitCode::from(u8::from(!good))
}

/// Whoever verifies an approval means ClawShield mode, unless the environment says otherwise.
struct AsClawShield(Option<String>);

impl Environment for AsClawShield {
    fn get(&self, name: &str) -> Option<String> {
        if name == env::MODE && self.0.is_none() { Some("clawshield".to_owned()) } else { ProcessEnvironment.get(name) }
    }
}

fn receipt(path: &Path) -> ExitCode {
    let answer =
        input::read(path).and_then(|bytes| CanonicalText::parse(&bytes, ANSWER_LIMITS).map_err(|e| e.to_string()));
    let answer = match answer {
        Ok(answer) => answer,
        Err(problem) => return fail(problem, USAGE),
    };
    let text = |name: &str| answer.member(name)?.strip_prefix('"')?.strip_suffix('"');
    let (Some(id), Some(claimed), Some(result)) = (text("id"), text("receipt"), answer.member("result")) else {
        return fail("the answer must have `id`, `result` and `receipt`", USAGE);
    };
    let result =
        CanonicalText::parse(result.as_bytes(), ANSWER_LIMITS).expect("a member of canonical text is canonical");
    let valid = receipt::verify(id, ResultText::from(&result).as_str(), claimed);
    say!(
        "{}",
        if valid {
            "valid: this is the result of that execution"
        } else {
            "NOT valid: id, result and receipt do not belong together"
        }
    );
    ExitCode::from(u8::from(!valid))
}
