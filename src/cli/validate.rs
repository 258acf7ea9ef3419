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
            if let Mode::ClawShield { tenants: Err(missing) } = config.mode {
                eprintln!("warning: {missing} is not set: the server would refuse everything");
            }
            let places: Vec<_> = config.listen.iter().map(|listener| listener.place.to_string()).collect();
            say!("The configuration is good: {} mode on {}", config.mode.as_str(), places.join(", "));
            ExitCode::SUCCESS
        }
        Err(error) => fail(error, BAD_CONFIGURATION),
    }
}
