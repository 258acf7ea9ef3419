//! `openexec validate`

use std::path::Path;
use std::process::ExitCode;

use super::{BAD_CONFIGURATION, fail};
use crate::config::env::ProcessEnvironment;
use crate::config::{Config, Mode};

pub(super) fn run(path: Option<&Path>) -> ExitCode {
    match Config::load(path, &ProcessEnvironment) {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            if let Mode::ClawShield { verifier: Err(missing) } = config.mode {
                eprintln!("warning: {missing} is not set: the server would refuse everything");
            }
            println!("The configuration is good: {} mode on {}", config.mode.as_str(), config.listen);
            ExitCode::SUCCESS
        }
        Err(error) => fail(error, BAD_CONFIGURATION),
    }
}
