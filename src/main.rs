//! `openexec`: arguments in, exit code out. Every command is a file in `cli/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    openexec::cli::run()
}
