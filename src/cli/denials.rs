//! `openexec denials`: authentic requests that a running server refused.

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::admin_client::AdminAddress;
use super::executions::printable;
use super::fail;

/// Whom to ask, and for what.
#[derive(clap::Args)]
pub(super) struct Denials {
    #[command(flatten)]
    admin: AdminAddress,
    /// Print JSON instead of text for people
    #[arg(long)]
    json: bool,
    /// Only this tenant's
    #[arg(long, value_name = "ID", value_parser = identifier)]
    tenant: Option<String>,
    /// Only those older than the one with this number
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    before: Option<i64>,
    /// How many, at most 500
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
}

fn identifier(text: &str) -> Result<String, &'static str> {
    let is_one = openexec_protocol::approval::is_identifier(text);
    if is_one { Ok(text.to_owned()) } else { Err("1 to 128 of the characters A-Z a-z 0-9 . _ ~ -") }
}

impl Denials {
    pub(super) fn run(self, config: Option<&Path>) -> ExitCode {
        let tenant = self.tenant.as_ref().map(|id| format!("&tenant={id}")).unwrap_or_default();
        let before = self.before.map(|seq| format!("&before={seq}")).unwrap_or_default();
        let path = format!("/denials?limit={}{tenant}{before}", self.limit);
        match self.admin.client(config).and_then(|admin| admin.get(&path)) {
            Ok(answer) if self.json => say!("{answer:#}"),
            Ok(answer) => table(&answer),
            Err(error) => return fail(&error, error.exit_code()),
        }
        ExitCode::SUCCESS
    }
}

fn table(answer: &Value) {
    say!(
        "{:<27}  {:<26}  {:<16}  {:<16}  {:<12}  {:<12}  APPROVAL",
        "DENIED",
        "REASON",
        "ACTION",
        "TENANT",
        "KEY",
        "CALLER"
    );
    for row in answer["denials"].as_array().into_iter().flatten() {
        let cell = |name: &str| printable(&row[name]);
        say!(
            "{:<27}  {:<26}  {:<16}  {:<16}  {:<12}  {:<12}  {}",
            cell("denied_at"),
            cell("reason"),
            cell("action"),
            cell("tenant"),
            cell("key_id"),
            cell("caller"),
            cell("approval_id")
        );
    }
    if let Some(next) = answer["next"].as_i64() {
        say!("more: --before {next}");
    }
}
