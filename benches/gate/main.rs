//! `make bench`: this server against the leanest Pingora server that reads, parses, hashes, verifies and answers, but
//! keeps no ledger. All run in turn, several rounds, on the same machine: quote the ratios, not the figures.

#![allow(missing_docs, clippy::unwrap_used)]

mod alone;
mod lean;
mod load;
mod process;

use std::time::Duration;

use load::{Load, Measured};
use process::Server;

/// Rounds, each with every server once.
const ROUNDS: usize = 7;
/// Requests of one server in one round.
const REQUESTS: usize = 30_000;
const CONNECTIONS: usize = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, listen] = arguments.as_slice()
        && role == "lean"
    {
        return lean::serve(listen);
    }
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (rounds, requests) = (number("BENCH_ROUNDS", ROUNDS), number("BENCH_REQUESTS", REQUESTS));
    let mut columns = vec![
        Column::new("lean Pingora", Server::lean()),
        Column::new("openexec, memory:", Server::openexec("memory:", "info")),
        Column::new("  the same, log off", Server::openexec("memory:", "warn")),
        Column::new("openexec, SQLite synced", Server::openexec("sqlite", "info")),
    ];
    // The ledger's fence of a start in `memory:` must be behind the approvals.
    std::thread::sleep(Duration::from_secs(2));
    let mut alone = Vec::new();
    for round in 0..=rounds {
        for column in &mut columns {
            let before = column.server.usage();
            let load = Load::mint(requests, 1_024);
            let mut measured = load.run(&column.server.address, CONNECTIONS);
            measured.add_usage(&before, &column.server.usage());
            // The first round warms up: caches, pools, the file.
            if round > 0 {
                column.rounds.push(measured);
            }
        }
        alone.push(alone::rate(requests, CONNECTIONS));
    }
    report(&columns, rounds, requests);
    let alone = median(alone);
    let ratio = alone / columns[0].median(|m| m.rate);
    println!("\nthe SQLite ledger alone, without HTTP or checks: {alone:.0} claims/s, a ratio of {ratio:.2}");
}

struct Column {
    name: &'static str,
    server: Server,
    rounds: Vec<Measured>,
}

impl Column {
    fn new(name: &'static str, server: Server) -> Self {
        Column { name, server, rounds: Vec::new() }
    }

    fn median(&self, figure: impl Fn(&Measured) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn report(columns: &[Column], rounds: usize, requests: usize) {
    println!(
        "{CONNECTIONS} connections, 1 KiB bodies, {rounds} rounds of {requests} requests each, interleaved; medians\n"
    );
    println!(
        "{:<26}{:>11}{:>8}{:>10}{:>10}{:>11}{:>10}{:>11}{:>8}",
        "", "requests/s", "ratio", "p50 ms", "p99 ms", "CPU us/req", "peak MiB", "commits/s", "batch"
    );
    for column in columns {
        let ratios = column.rounds.iter().zip(&columns[0].rounds).map(|(ours, lean)| ours.rate / lean.rate).collect();
        println!(
            "{:<26}{:>11.0}{:>8.2}{:>10.2}{:>10.2}{:>11.1}{:>10.1}{:>11.0}{:>8.1}",
            column.name,
            column.median(|m| m.rate),
            median(ratios),
            column.median(|m| m.p50_ms),
            column.median(|m| m.p99_ms),
            column.median(|m| m.cpu_us),
            column.server.usage().peak_mib,
            column.median(|m| m.commits_per_second),
            column.median(|m| m.batch),
        );
    }
}
