//! `openexec executions`: what a running server executed, and settling what it cannot know.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use openexec_protocol::canonical::{CanonicalText, Limits};
use serde_json::{Value, json};

use super::admin_client::{AdminAddress, AdminClient, AskError};
use super::tail::Tail;
use super::{USAGE, fail, input};

/// Whom to ask, and for what.
#[derive(Args)]
pub(super) struct Executions {
    #[command(flatten)]
    admin: AdminAddress,
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// clap's own puts both on one line, which no terminal has room for.
const RESOLVE_USAGE: &str = "\
openexec executions resolve <ID> --as <NAME> --result <FILE>
       openexec executions resolve <ID> --as <NAME> --not-executed";

#[derive(Subcommand)]
enum Command {
    /// List executions, the newest first
    List(List),
    /// Print executions as they come, and as their states change, until it is interrupted
    Tail(Tail),
    /// Show one with everything that is known of it, its payload and result included
    Show {
        /// The execution's id, as in `list` and in OpenExec-Execution-Id
        id: String,
    },
    /// Settle one whose outcome is unknown, after looking where it has its effects
    ///
    /// Retries of the client get what is said here, for good. Exit code 1 if its outcome is known, or if a recovery is
    /// trying to find out at this moment: then ask again.
    #[command(override_usage = RESOLVE_USAGE)]
    Resolve(Resolve),
}

#[derive(Args)]
struct List {
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_parser = ["intent", "done", "not_executed", "unknown"], ignore_case = true)]
    state: Option<String>,
    /// Only those of this action
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only this tenant's
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only those with this in their id, nonce, approval id, action hash or caller
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Only those older than the one with this id
    #[arg(long, value_name = "ID")]
    before: Option<String>,
    /// How many, at most 500
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
}

#[derive(Args)]
struct Resolve {
    /// The execution's id
    id: String,
    #[command(flatten)]
    outcome: Outcome,
    /// Who resolves it, for the record
    #[arg(long = "as", env = "USER", value_name = "NAME")]
    by: String,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Outcome {
    /// It happened: a file with the result that retries get, as JSON; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
    /// It did not happen, and never will
    #[arg(long)]
    not_executed: bool,
}

impl List {
    /// Whole, however many are looked through for it.
    fn ask(&self, admin: &AdminClient) -> Result<Value, AskError> {
        let wanted = usize::from(self.limit);
        let (mut found, mut before) = (Vec::new(), self.before.clone());
        loop {
            let limit = (wanted - found.len()).to_string();
            let given = [
                ("limit", Some(&limit)),
                ("state", self.state.as_ref()),
                ("action", self.action.as_ref()),
                ("tenant", self.tenant.as_ref()),
                ("search", self.search.as_ref()),
                ("before", before.as_ref()),
            ];
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(given.into_iter().filter_map(|(name, value)| Some((name, value?))));
            let page = admin.get(&format!("/executions?{}", query.finish()))?;
            found.extend(page["executions"].as_array().into_iter().flatten().cloned());
            before = page["next"].as_str().map(str::to_owned);
            if before.is_none() || found.len() >= wanted {
                return Ok(json!({"executions": found, "next": before}));
            }
        }
    }
}

impl Executions {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        let admin = match self.admin.client(config) {
            Ok(admin) => admin,
            Err(error) => return explain(&error),
        };
        let asked = match &self.command {
            Command::List(list) => list.ask(&admin),
            Command::Tail(tail) => return tail.run(&admin, self.json),
            Command::Show { id } => admin.get(&format!("/executions/{id}")),
            Command::Resolve(resolve) => match resolve.body() {
                Ok(body) => admin.post(&format!("/executions/{}/resolve", resolve.id), body),
                Err(problem) => return fail(problem, USAGE),
            },
        };
        match asked {
            Ok(answer) if self.json => say!("{answer:#}"),
            Ok(answer) if answer["executions"].is_array() => table(&answer),
            Ok(answer) => details(&answer),
            Err(error) => return explain(&error),
        }
        ExitCode::SUCCESS
    }
}

pub(super) fn explain(error: &AskError) -> ExitCode {
    fail(error, error.exit_code())
}

impl Resolve {
    /// As text, so that every digit of the result stays as it is.
    fn body(&self) -> Result<String, String> {
        let by = CanonicalText::string(&self.by);
        let by = by.as_str();
        let Some(path) = &self.outcome.result else {
            return Ok(format!(r#"{{"outcome":"not_executed","by":{by}}}"#));
        };
        let no_limits = Limits { depth: 64, nodes: usize::MAX };
        let result = CanonicalText::parse(&input::read(path)?, no_limits);
        let result = result.map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(format!(r#"{{"outcome":"done","by":{by},"result":{}}}"#, result.as_str()))
    }
}

fn table(answer: &Value) {
    say!("{:<36}  {:<12}  {:<25}  {:<10}  {:<20}  TENANT", "ID", "STATE", "CLAIMED", "RECOVERY", "ACTION");
    let rows = answer["executions"].as_array().map(Vec::as_slice).unwrap_or_default();
    for row in rows {
        let cell = |name: &str| printable(&row[name]);
        say!(
            "{:<36}  {:<12}  {:<25}  {:<10}  {:<20}  {}",
            cell("id"),
            cell("state"),
            cell("claimed_at"),
            cell("recovery"),
            cell("action"),
            cell("tenant")
        );
    }
    if let Some(next) = answer["next"].as_str() {
        say!("more: --before {next}");
    }
}

fn details(answer: &Value) {
    for (name, value) in answer.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        say!("{name:<12} {}", printable(value));
    }
}

/// A client chose some of it: nothing that a terminal would obey.
pub(super) fn printable(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => super::printable(text),
        other => other.to_string(),
    }
}
