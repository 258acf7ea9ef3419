//! `openexec schema` and `openexec completions`: what editors and shells want to know.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::config::schema;

/// Which shell.
#[derive(Args)]
pub(super) struct Completions {
    /// The shell that is to complete `openexec`
    shell: Shell,
}

pub(super) fn run() -> ExitCode {
    print(schema::text().as_bytes())
}

impl Completions {
    pub(super) fn run(&self) -> ExitCode {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Arguments::command(), "openexec", &mut script);
        print(&script)
    }
}

/// A reader that has seen enough, such as `head`, is no failure.
fn print(text: &[u8]) -> ExitCode {
    let _ = std::io::stdout().lock().write_all(text);
    ExitCode::SUCCESS
}
