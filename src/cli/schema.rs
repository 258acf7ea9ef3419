//! `openexec schema` and `openexec completions`: what editors, generators and shells want to know.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::config::schema;
use crate::injector::settings;
use crate::metrics::reference;
use crate::openapi;

/// Which interface.
#[derive(Args)]
pub(super) struct Schema {
    /// The interface to describe
    #[arg(value_enum, default_value_t = Interface::Config)]
    interface: Interface,
}

#[derive(Clone, Copy, ValueEnum)]
enum Interface {
    /// The configuration file, as a JSON schema
    Config,
    /// The main listener, as an OpenAPI 3.1 document
    Openapi,
    /// The admin listener, as an OpenAPI 3.1 document
    OpenapiAdmin,
    /// The settings of `openexec injector`, as a JSON schema
    Injector,
    /// The metrics, as a page of Markdown
    Metrics,
}

/// Which shell.
#[derive(Args)]
pub(super) struct Completions {
    /// The shell that is to complete `openexec`
    shell: Shell,
}

impl Schema {
    pub(super) fn run(&self) -> ExitCode {
        print(match self.interface {
            Interface::Config => schema::text().into_bytes(),
            Interface::Openapi => openapi::CLIENTS.as_bytes().to_vec(),
            Interface::OpenapiAdmin => openapi::ADMIN.as_bytes().to_vec(),
            Interface::Injector => settings::schema_text().into_bytes(),
            Interface::Metrics => reference::page().into_bytes(),
        })
    }
}

impl Completions {
    pub(super) fn run(&self) -> ExitCode {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Arguments::command(), "openexec", &mut script);
        print(script)
    }
}

/// A reader that has seen enough, such as `head`, is no failure.
fn print(text: Vec<u8>) -> ExitCode {
    let _ = std::io::stdout().lock().write_all(&text);
    ExitCode::SUCCESS
}
