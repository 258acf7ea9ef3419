//! `openexec`: arguments in, exit code out. Every command is a file in `cli/`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Results are made by one thread and freed by another, which costs the system's allocator a tenth of all executions.
/// Version 2 of mimalloc: the crate's version 3 is 3.3.2, which can crash where threads begin (microsoft/mimalloc#1287).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    openexec::huge_pages::refuse();
    openexec::cli::run()
}
