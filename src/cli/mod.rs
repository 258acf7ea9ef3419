//! The commands. A file a command.

mod admin_client;
mod executions;
mod input;
mod mint;
mod notify;
mod probe;
mod schema;
mod serve;
mod validate;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::env;

/// The gate between automation and the real world: lets an action through when, and only when, a signed approval
/// covers it; executes it at most once; answers a retry with the first answer.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES, arg_required_else_help = false)]
struct Arguments {
    /// The configuration file (YAML). None is needed; environment variables win over it.
    #[arg(long, global = true, env = env::CONFIG, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   `verify`: not acceptable; `executions`: no such one, or not in a state for it; `probe`: not ready
  2   wrong usage
  69  an address cannot be listened on, or the admin listener cannot be reached
  74  the ledger cannot be read or written, or is damaged
  75  the ledger is in use by another process
  77  the admin token is missing, wrong or not enough
  78  the configuration, or the ledger that it names, is not acceptable";

#[derive(Subcommand)]
enum Command {
    /// Serve (the default)
    Serve(serve::Serve),
    /// Check the configuration and the environment, and list everything that is wrong
    Validate,
    /// Approve a request: sign it, and print it with its approval
    Mint(mint::Mint),
    /// Say whether an approval or a receipt is good, and why
    #[command(subcommand)]
    Verify(verify::Verify),
    /// Print the JSON schema of the configuration file
    Schema,
    /// Print what a shell needs to complete commands and options
    Completions(schema::Completions),
    /// Ask a running server whether it is ready: the health check of a container
    Probe(probe::Probe),
    /// What a running server executed, and settling what it cannot know
    Executions(executions::Executions),
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let Arguments { config, command } = Arguments::parse();
    match command.unwrap_or(Command::Serve(serve::Serve::default())) {
        Command::Serve(serve) => serve.run(config.as_deref()),
        Command::Validate => validate::run(config.as_deref()),
        Command::Mint(mint) => mint.run(),
        Command::Verify(verify) => verify.run(config.as_deref()),
        Command::Schema => schema::run(),
        Command::Completions(completions) => completions.run(),
        Command::Probe(probe) => probe.run(config.as_deref()),
        Command::Executions(executions) => executions.run(config.as_deref()),
    }
}

/// Says what is wrong.
fn fail(problem: impl std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("openexec: {problem}");
    ExitCode::from(code)
}

/// Text of somebody else: nothing that a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// A configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 78;
/// A command used wrongly.
const USAGE: u8 = 2;
