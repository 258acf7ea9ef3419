//! `make bench`: this server against others, in turn, several rounds, on the same machine: quote the ratios, not the
//! figures.
//!
//! First the gate alone against the leanest Pingora server that reads, parses, hashes, verifies and answers, but keeps
//! no ledger; then the forwarded action against gateways that only pass bytes, or verify, and keep no record;
//! then one client beside 500 slow ones; then PostgreSQL beside SQLite. `BENCH_ONLY=gate`, `forward`, `slow` or `shared` runs one of them, and
//! `growth`, which needs 10 GB and half an hour, nothing else; `BENCH_ROUNDS` and `BENCH_REQUESTS` make it shorter.

#![allow(missing_docs, clippy::unwrap_used)]

mod alone;
#[path = "../../tests/it/database.rs"]
mod database;
mod forward;
mod lean;
mod load;
mod passing;
mod process;
mod shared;
mod slow;
mod table;
mod upstream;

use load::Ids;
use process::Server;
use table::{Column, median};

/// The server's own, so that the roles that it is compared with have no slower one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rounds, each with every server once.
const ROUNDS: usize = 7;
/// Requests of one server in one round.
const REQUESTS: usize = 30_000;
const CONNECTIONS: usize = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["lean", listen] => return lean::serve(listen, lean::Says::Result),
        ["verifier", listen] => return lean::serve(listen, lean::Says::Yes),
        ["upstream", listen] => return upstream::serve(listen),
        ["passing", listen, upstream] => return passing::serve(listen, upstream),
        ["touch", bytes] => return drop(std::hint::black_box(vec![1_u8; bytes.parse().unwrap()])),
        _ => {}
    }
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (rounds, requests) = (number("BENCH_ROUNDS", ROUNDS), number("BENCH_REQUESTS", REQUESTS));
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let runs = |part: &str| only.is_empty() || only == part;
    if runs("gate") {
        gate(rounds, requests);
    }
    if runs("forward") {
        forward::measure(rounds, requests);
    }
    if runs("slow") {
        slow::measure(rounds, requests);
    }
    if runs("shared") {
        shared::measure(rounds, requests);
    }
    if only == "growth" {
        shared::growth(requests);
    }
}

fn gate(rounds: usize, requests: usize) {
    let mut columns = vec![
        Column::new("lean Pingora", Server::role("lean", &[])).verifying(),
        Column::new("openexec, memory:", Server::openexec("memory:", "info")).verifying(),
        Column::new("  the same, log off", Server::openexec("memory:", "warn")).verifying(),
        Column::new("openexec, SQLite synced", Server::openexec("sqlite", "info")).verifying(),
        Column::new("  the same, random ids", Server::openexec("sqlite", "info")).verifying().random_ids(),
    ];
    table::run(&mut columns, rounds, requests);
    table::report(&columns, 0, rounds, requests);
    println!("\nthe SQLite ledger alone, without HTTP or checks");
    for ids in [Ids::Ordered, Ids::Random] {
        let alone = median((0..=rounds).map(|_| alone::rate(requests, CONNECTIONS, ids)).collect());
        let ratio = alone / columns[0].median(|m| m.rate);
        println!("ids {ids:?}: {alone:.0} claims/s, a ratio of {ratio:.2}");
    }
}
