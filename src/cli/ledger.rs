//! `openexec ledger`: the ledger, made, checked, copied, moved and fenced.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use humantime_serde::re::humantime;

use super::{BAD_CONFIGURATION, USAGE, fail};
use crate::config::env::ProcessEnvironment;
use crate::config::ledger::LedgerConfig;
use crate::config::{Config, HMAC_LIFETIME, Mode};
use crate::ledger::care::{self, CareError};

/// What to do with it.
#[derive(Subcommand)]
pub(super) enum Ledger {
    /// Make the ledger, or bring it to this version
    ///
    /// A start does it too, unless ledger.create is false. With PostgreSQL it needs a role that may make tables, which a
    /// server's need not be.
    Migrate,
    /// Read all of it: the file's structure, each execution, each receipt, and the anchor beside it
    Check,
    /// Copy its file into a new one, also while a server uses it
    ///
    /// PostgreSQL has tools of its own for that.
    ///
    /// The copy is one state of the ledger, compact, synced and checked. Approvals that are used after it was made are
    /// unused in it: raise the fence when it is put in the ledger's place (openexec ledger fence).
    Backup {
        /// The copy, which must not be there yet
        file: PathBuf,
    },
    /// Write every execution as a line of JSON, also while a server uses it
    ///
    /// Receipts are verified on the way. It holds results and, of unknown outcomes, payloads.
    Export {
        /// Where to, which must not be there yet [default: standard output]
        file: Option<PathBuf>,
    },
    /// Take over the executions of an export, or of the OpenExec 0.2.0 service's openexec.db
    ///
    /// All of them or none; receipts are verified. An execution that is here already stays as it is. The fence is raised:
    /// approvals from before the import are refused. No server may use the ledger meanwhile.
    Import {
        /// The export, or the 0.2.0 service's file
        file: PathBuf,
        /// Whose the executions of a 0.2.0 file are [default: CLAWSHIELD_TENANT_ID's; in demo mode, demo mode's]
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Forget old results, or whole executions
    ///
    /// A retry for a forgotten result gets 410 with its receipt. A nonce of a forgotten execution is new again: in demo
    /// mode it would be executed once more; approvals of that time are refused. Unknown outcomes stay. The room is used again; the file does not shrink. No
    /// server may use a file meanwhile; with PostgreSQL they may.
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
    Prune {
        /// Results that were stored longer ago than this, such as 30d
        #[arg(long, value_name = "TIME", value_parser = time, group = "what")]
        results: Option<Duration>,
        /// Executions that were settled longer ago than this, such as 400d; at least as long as an approval can count: 24h
        /// and twice approval.clock_skew
        #[arg(long, value_name = "TIME", value_parser = time, group = "what")]
        executions: Option<Duration>,
    },
    /// Refuse all approvals that were issued before now: after a copy was put in the ledger's place
    ///
    /// No server may use a file meanwhile; with PostgreSQL they may. The fence never falls.
    Fence,
}

impl Ledger {
    pub(super) fn run(&self, path: Option<&Path>) -> ExitCode {
        let config = match Config::load(path, &ProcessEnvironment) {
            Ok(config) => config,
            Err(error) => return fail(error, BAD_CONFIGURATION),
        };
        let ledger = &config.ledger;
        let done = match self {
            Ledger::Migrate => care::migrate(ledger).map(|found| {
                say!("{found}");
                ExitCode::SUCCESS
            }),
            Ledger::Check => check(ledger),
            Ledger::Backup { file } => care::backup(ledger, file).map(|bytes| {
                eprintln!("copied the ledger into {}: {bytes} bytes", file.display());
                ExitCode::SUCCESS
            }),
            Ledger::Export { file } => export(ledger, file.as_deref()),
            Ledger::Import { file, tenant } => match tenant_of(tenant.as_deref(), &config.mode) {
                Ok(tenant) => import(ledger, file, &tenant, config.clock_skew),
                Err(problem) => return fail(problem, BAD_CONFIGURATION),
            },
            Ledger::Prune { results, executions } => {
                let least = config.max_lifetime.to_std().unwrap_or_default().max(HMAC_LIFETIME)
                    + 2 * config.clock_skew.to_std().unwrap_or_default();
                if executions.is_some_and(|time| time < least) {
                    let least = humantime::format_duration(least);
                    return fail(format!("--executions must be at least {least}"), USAGE);
                }
                prune(ledger, *results, *executions, config.clock_skew)
            }
            Ledger::Fence => care::raise(ledger, config.clock_skew).map(|fence| {
                say!("approvals issued before {fence} are refused");
                ExitCode::SUCCESS
            }),
        };
        done.unwrap_or_else(|error| {
            let code = error.exit_code();
            fail(error, code)
        })
    }
}

fn check(ledger: &LedgerConfig) -> Result<ExitCode, CareError> {
    let findings = care::check(ledger)?;
    say!("{findings}");
    for problem in &findings.problems {
        eprintln!("openexec: {problem}");
    }
    Ok(if findings.problems.is_empty() {
        say!("The ledger is good");
        ExitCode::SUCCESS
    } else {
        ExitCode::from(74)
    })
}

fn export(ledger: &LedgerConfig, to: Option<&Path>) -> Result<ExitCode, CareError> {
    let (mut out, file): (Box<dyn Write>, _) = match to {
        None => (Box::new(BufWriter::new(io::stdout().lock())), None),
        Some(path) => {
            let failed = |error| CareError::File(path.to_owned(), error);
            let file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
            (Box::new(BufWriter::new(file.try_clone().map_err(failed)?)), Some((path, file)))
        }
    };
    let exported = care::export(ledger, &mut out);
    if let Some((path, file)) = file {
        if exported.is_err() {
            // Half an export is none.
            let _ = std::fs::remove_file(path);
        }
        file.sync_all().map_err(|error| CareError::File(path.to_owned(), error))?;
    }
    eprintln!("exported {} executions", exported?);
    Ok(ExitCode::SUCCESS)
}

fn import(ledger: &LedgerConfig, from: &Path, tenant: &str, skew: TimeDelta) -> Result<ExitCode, CareError> {
    let imported = care::import(ledger, from, tenant, skew)?;
    say!("imported {} executions into {}", imported.executions, imported.ledger);
    if imported.known > 0 {
        say!("{} were here already", imported.known);
    }
    if imported.unaskable > 0 {
        say!("{} were left out: their nonces are empty, over 256 bytes or have a U+0000", imported.unaskable);
    }
    if let Some(fence) = imported.fence {
        say!("approvals issued before {fence} are refused");
    }
    Ok(ExitCode::SUCCESS)
}

fn time(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

fn prune(
    ledger: &LedgerConfig,
    results: Option<Duration>,
    executions: Option<Duration>,
    skew: TimeDelta,
) -> Result<ExitCode, CareError> {
    // Before everything, where it cannot be told: nothing is that old.
    let before = |age: Duration| {
        TimeDelta::from_std(age).ok().and_then(|age| Utc::now().checked_sub_signed(age)).unwrap_or(DateTime::UNIX_EPOCH)
    };
    let pruned = care::prune(ledger, results.map(before), executions.map(before), skew)?;
    say!("forgot {} executions, and the results of {} others", pruned.executions, pruned.results);
    if let Some(fence) = pruned.fence {
        say!("approvals issued before {fence} are refused");
    }
    Ok(ExitCode::SUCCESS)
}

/// Demo mode's executions are nobody's.
fn tenant_of(named: Option<&str>, mode: &Mode) -> Result<String, &'static str> {
    match (named, mode) {
        (Some(named), _) if openexec_protocol::approval::is_identifier(named) => Ok(named.to_owned()),
        (Some(_), _) => Err("--tenant must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -"),
        (None, Mode::Demo { .. }) => Ok(String::new()),
        (None, Mode::ClawShield { tenants: Ok(tenants) }) if tenants.len() == 1 => {
            Ok(tenants[0].verifier.tenant_id.clone())
        }
        (None, Mode::ClawShield { .. }) => Err("say whose these executions are: --tenant"),
    }
}
