//! `openexec`: arguments in, exit code out. Every command is a file in `cli/`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Results are made by one thread and freed by another, which costs the system's allocator a tenth of all executions.
/// Version 2 of mimalloc: the crate's version 3 is 3.3.2, which can crash where threads begin (microsoft/mimalloc#1287).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, with which a small server takes twice the memory that it needs. A kernel that does
    // not know how to refuse them has none.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    openexec::cli::run()
}
