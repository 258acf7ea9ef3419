//! The commands. A file a command.

/// Prints a line. Whoever reads may have read enough (`| head`): that is no failure, and the rest is nobody's.
macro_rules! say {
    ($($text:tt)*) => {
        if let Err(error) = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($text)*))) {
            crate::cli::unprinted(&error);
        }
    };
}

mod admin_client;
mod denials;
mod executions;
mod inject;
mod injector;
mod input;
mod keys;
mod ledger;
mod mint;
mod notify;
mod probe;
mod redirect;
mod schema;
mod serve;
mod signals;
mod tail;
mod top;
mod validate;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::env;

/// The gate between automation and the real world: lets an action through when, and only when, a signed approval
/// covers it; executes it at most once; answers a retry with the first answer.
///
/// Without a command it serves.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Arguments {
    /// The server's configuration file (YAML); none is needed, and the environment wins over it
    #[arg(long, global = true, env = env::CONFIG, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   `verify`: not acceptable
      `executions`: no such one, or in no state for it
      `probe`: not ready
  2   wrong usage
  65  `ledger import`: the file is not what can be imported
      `inject`: a pod cannot have a gate
  69  an address cannot be listened on, a running server does not give its
      sockets, or the admin listener cannot be reached
      `redirect --apply`: there is no nft
  71  the system gives no threads
      `redirect --apply`: the kernel does not take the tables
  74  the ledger cannot be read or written, or is damaged
  75  the ledger is in use by another process
  77  the admin token is missing, wrong or not enough
      `redirect --apply`: the capability NET_ADMIN is missing
  78  the configuration, or the ledger that it names, is not acceptable

`openexec serve --help` lists the environment variables.";

#[derive(Subcommand)]
enum Command {
    /// Serve (the default)
    ///
    /// Serves until SIGTERM or SIGINT, then finishes what runs; a second signal hurries it. SIGHUP, or a file of the
    /// configuration that changed, puts the new configuration into use, if all of it is good.
    #[command(after_help = serve::ENVIRONMENT)]
    Serve(serve::Serve),
    /// Check the configuration and the environment, and list everything that is wrong
    ///
    /// Nothing is opened or listened on. Problems are listed on standard error, with file, line and member or with the
    /// variable's name. Exit code 0 if the server would accept it, else 78.
    Validate,
    /// Approve a request: sign it, and print it with its approval
    ///
    /// Signs in the HMAC form with CLAWSHIELD_SECRET_KEY, or with what the file holds that CLAWSHIELD_SECRET_KEY_FILE
    /// names, or in the Ed25519 form with a private key. Whoever has that key can approve anything: keep it from whoever
    /// proposes actions. Exit code 0, or 2 if nothing was signed.
    Mint(mint::Mint),
    /// Make keys for approvals
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Say whether an approval or a receipt is good, and why
    ///
    /// Exit code 0 if it is good, 1 if it is not, 2 if it cannot be read.
    #[command(subcommand)]
    Verify(verify::Verify),
    /// Print what describes an interface: configuration, HTTP, metrics
    Schema(schema::Schema),
    /// Print what a shell needs to complete commands and options
    ///
    /// For bash: openexec completions bash > /etc/bash_completion.d/openexec
    Completions(schema::Completions),
    /// Ask a running server whether it is ready: the health check of a container
    ///
    /// Exit code 0 if it is; 1 if not, with the reasons on standard error; 69 if the admin listener cannot be reached.
    Probe(probe::Probe),
    /// Lead a pod's port to the gate: nftables tables, printed or put into force
    ///
    /// What the init container of a pod in redirect mode runs. It is for a pod's network and not for a machine's: what is not
    /// named is refused from outside, SSH included. With --apply it needs the capability NET_ADMIN, the
    /// program nft, and nothing that can be written. All of it is put into force or nothing, and then it is read back. Exit
    /// code 0; 2 for ports that collide; 69 without nft; 71 if the kernel does not take it, or it is not there afterwards;
    /// 77 without the capability. With any but 0 the pod does not start.
    Redirect(redirect::Redirect),
    /// Make, check, copy, move, prune or fence the ledger
    ///
    /// The ledger is the configured one: OPENEXEC_DB_URL, or ledger.url. Exit code 0; 65 if a file cannot be imported; 69 if
    /// the database is not there; 74 if the ledger is damaged, or a file cannot be read or written; 75 if a server uses it;
    /// 78 if it is no ledger.
    #[command(subcommand)]
    Ledger(ledger::Ledger),
    /// Put the gate into pods, in manifests: a text filter
    ///
    /// Reads YAML or JSON and prints it with the gate in every pod that `openexec.dev/inject: disabled` does not keep out;
    /// other documents come out as they are. What a pod's author should know is on standard error. Exit code 0, or 65 if
    /// a pod cannot have a gate: then nothing is printed.
    Inject(inject::Inject),
    /// Put the gate into pods, as Kubernetes creates them: an admission webhook
    ///
    /// Answers the API server by HTTPS at /inject, and at /inject/enforced where no pod may opt out. The settings and the
    /// certificate are read again when they change. `openexec serve --help` explains OPENEXEC_LOG and OPENEXEC_LOG_FORMAT.
    Injector(injector::Injector),
    /// Look at what a running server executed, and settle what it cannot know
    ///
    /// Asks the admin listener with OPENEXEC_ADMIN_TOKEN, or, to look only, with OPENEXEC_ADMIN_READ_TOKEN; either can
    /// be in a file that NAME_FILE names. Exit code 0; 1 if there is no such execution or it is in no state for it; 69
    /// if the admin listener cannot be reached; 77 if the token is missing, wrong or not enough.
    Executions(executions::Executions),
    /// Watch what a running server does, in a terminal
    ///
    /// Verdicts per second, times, limits and the last executions, for which it needs one of the tokens of `executions`. Asks
    /// the admin listener.
    Top(top::Top),
    /// Look at authentic requests that a running server refused
    ///
    /// With a good approval, and refused all the same: too late, used before, for an action that is not allowed. What nobody
    /// signed is counted in the metrics only. Asks the admin listener, with the tokens and exit codes of `executions`.
    Denials(denials::Denials),
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let Arguments { config, command } = Arguments::parse();
    match command.unwrap_or(Command::Serve(serve::Serve::default())) {
        Command::Serve(serve) => serve.run(config.as_deref()),
        Command::Validate => validate::run(config.as_deref()),
        Command::Mint(mint) => mint.run(),
        Command::Keys(keys) => keys.run(),
        Command::Verify(verify) => verify.run(config.as_deref()),
        Command::Schema(schema) => schema.run(),
        Command::Completions(completions) => completions.run(),
        Command::Probe(probe) => probe.run(config.as_deref()),
        Command::Redirect(redirect) => redirect.run(),
        Command::Ledger(ledger) => ledger.run(config.as_deref()),
        Command::Inject(inject) => inject.run(),
        Command::Injector(injector) => injector.run(),
        Command::Top(top) => top.run(config.as_deref()),
        Command::Denials(denials) => denials.run(config.as_deref()),
        Command::Executions(executions) => executions.run(config.as_deref()),
    }
}

/// Ends the process: nobody hears what would be said.
fn unprinted(error: &std::io::Error) -> ! {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    eprintln!("openexec: standard output: {error}");
    std::process::exit(74);
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// With the names of those above it.
    fn walk(command: &clap::Command, above: &str, visit: &mut impl FnMut(&str, &clap::Command)) {
        let name = format!("{above} {}", command.get_name());
        visit(&name, command);
        command.get_subcommands().for_each(|below| walk(below, &name, visit));
    }

    #[test]
    fn everything_that_can_be_typed_is_explained() {
        let mut commands = 0;
        walk(&Arguments::command(), "", &mut |name, command| {
            commands += 1;
            assert!(command.get_about().is_some(), "{name} is not explained");
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{name}: {} is not explained", argument.get_id());
                assert!(!help.ends_with('.'), "{name}: {help}");
            }
        });
        assert!(commands > 12, "{commands}");
    }

    #[test]
    fn help_fits_an_80_column_terminal() {
        let mut whole = Arguments::command().term_width(80);
        whole.build();
        walk(&whole, "", &mut |name, command| {
            let help = command.clone().render_long_help().to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        });
    }

    #[test]
    fn every_variable_is_in_the_help_of_serve() {
        for name in env::ALL {
            assert!(serve::ENVIRONMENT.contains(&format!("  {name}\n")), "{name}");
        }
    }
}
