//! Servers in turn, round after round, and what came of it.

use std::time::Duration;

use crate::CONNECTIONS;
use crate::load::{self, Ids, Load, Measured};
use crate::process::{self, Server};

/// Of new memory, what a server may need that keeps each result.
const BYTES_PER_REQUEST: usize = 2 << 10;

pub(crate) struct Column {
    name: &'static str,
    server: Server,
    ids: Ids,
    verifies: bool,
    rounds: Vec<Measured>,
}

impl Column {
    pub(crate) fn new(name: &'static str, server: Server) -> Self {
        Column { name, server, ids: Ids::Ordered, verifies: false, rounds: Vec::new() }
    }

    /// With requests whose names have no order.
    pub(crate) fn random_ids(self) -> Self {
        Column { ids: Ids::Random, ..self }
    }

    /// One that must be seen to verify before it is measured.
    pub(crate) fn verifying(self) -> Self {
        Column { verifies: true, ..self }
    }

    pub(crate) fn median(&self, figure: impl Fn(&Measured) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn run(columns: &mut [Column], rounds: usize, requests: usize) {
    // The fence of a start in `memory:` must be behind the approvals.
    std::thread::sleep(Duration::from_secs(2));
    for column in columns.iter().filter(|column| column.verifies) {
        load::must_verify(&column.server.address);
    }
    for round in 0..=rounds {
        for column in &mut *columns {
            let load = Load::mint(requests, 1_024, column.ids);
            process::have_memory(requests * BYTES_PER_REQUEST);
            let before = column.server.usage();
            let mut measured = load.run(&column.server.address, CONNECTIONS);
            measured.add_usage(&before, &column.server.usage());
            // The first round warms up: caches, pools, the file.
            if round > 0 {
                column.rounds.push(measured);
            }
        }
    }
}

/// Ratios are those of the rounds, to the column with the index `base`.
pub(crate) fn report(columns: &[Column], base: usize, rounds: usize, requests: usize) {
    println!(
        "{CONNECTIONS} connections, 1 KiB bodies, {rounds} rounds of {requests} requests each, interleaved; medians\n"
    );
    println!(
        "{:<26}{:>11}{:>8}{:>10}{:>10}{:>11}{:>10}{:>11}{:>8}",
        "", "requests/s", "ratio", "p50 ms", "p99 ms", "CPU us/req", "peak MiB", "commits/s", "batch"
    );
    for column in columns {
        let ratios = column.rounds.iter().zip(&columns[base].rounds).map(|(ours, base)| ours.rate / base.rate);
        println!(
            "{:<26}{:>11.0}{:>8.2}{:>10.2}{:>10.2}{:>11.1}{:>10.1}{:>11.0}{:>8.1}",
            column.name,
            column.median(|m| m.rate),
            median(ratios.collect()),
            column.median(|m| m.p50_ms),
            column.median(|m| m.p99_ms),
            column.median(|m| m.cpu_us),
            column.server.usage().peak_mib,
            column.median(|m| m.commits_per_second),
            column.median(|m| m.batch),
        );
    }
}
