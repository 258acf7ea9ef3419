//! `openexec redirect`: the network of a pod in redirect mode.

use std::process::ExitCode;

use clap::Args;

use super::{USAGE, fail};
use crate::redirect::nft::{self, NftError};
use crate::redirect::{Ports, Table};

/// Which ports, and whether it is to be in force.
#[derive(Args)]
pub(super) struct Redirect {
    /// Put it into force in this network namespace, with nft, instead of printing it
    #[arg(long)]
    apply: bool,
    /// The app's port: from outside it leads to the gate
    #[arg(long, value_name = "PORT", value_parser = port())]
    app_port: u16,
    /// The gate's port
    #[arg(long, value_name = "PORT", default_value_t = 5000, value_parser = port())]
    gate_port: u16,
    /// The port of the gate's admin listener
    #[arg(long, value_name = "PORT", default_value_t = 5001, value_parser = port())]
    admin_port: u16,
    /// Another TCP port that may be reached from outside; can be repeated
    #[arg(long = "allow-port", value_name = "PORT", value_parser = port())]
    allow_ports: Vec<u16>,
}

fn port() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

impl Redirect {
    pub(super) fn run(self) -> ExitCode {
        let ports =
            Ports { app: self.app_port, gate: self.gate_port, admin: self.admin_port, allowed: self.allow_ports };
        let table = match Table::new(&ports) {
            Ok(table) => table,
            Err(error) => return fail(error, USAGE),
        };
        if !self.apply {
            say!("{table}");
            return ExitCode::SUCCESS;
        }
        match nft::apply(&table) {
            Ok(()) => {
                eprintln!("openexec: port {} leads to port {} now", ports.app, ports.gate);
                ExitCode::SUCCESS
            }
            Err(error) => {
                let code = match &error {
                    NftError::Missing | NftError::Run(..) => 69,
                    NftError::Refused(_) | NftError::NotThere(_) => 71,
                    NftError::NotPermitted(_) => 77,
                };
                fail(error, code)
            }
        }
    }
}
