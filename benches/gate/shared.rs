//! The ledger of many replicas beside the file: PostgreSQL, directly and through PgBouncer; the round trips of an execution;
//! and what a claim takes as the table grows.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::database::{PgBouncer, Postgres, Proxy};
use crate::load::{Ids, Load};
use crate::process::Server;
use crate::{CONNECTIONS, Column, table};

/// As somebody would set it up who cares: the tests' servers are small.
const SETTINGS: [(&str, &str); 4] = [
    ("shared_buffers", "1GB"),
    ("max_wal_size", "4GB"),
    ("checkpoint_timeout", "15min"),
    ("autovacuum_naptime", "10s"),
];

pub(crate) fn measure(rounds: usize, requests: usize) {
    let postgres = Postgres::with(&SETTINGS);
    let pooler = PgBouncer::start(&postgres);
    let through = |database: &str| {
        let name = database.rsplit_once('/').unwrap().1;
        format!("{}/{name}", pooler.url().rsplit_once('/').unwrap().0)
    };
    let mut columns = vec![
        Column::new("openexec, SQLite synced", Server::openexec("sqlite", "info")).random_ids(),
        Column::new("openexec, PostgreSQL", Server::openexec(&postgres.new_database(), "info")).random_ids(),
        Column::new("  through PgBouncer", Server::openexec(&through(&postgres.new_database()), "info")).random_ids(),
    ];
    table::run(&mut columns, rounds, requests);
    println!("\na built-in action, the ledger on this machine\n");
    table::report(&columns, 0, rounds, requests);
    drop(columns);
    let upstream = Server::role("upstream", &[]);
    let mut columns = vec![
        Column::new("openexec, SQLite synced", Server::forwarding("sqlite", &upstream.address)).random_ids(),
        Column::new("openexec, PostgreSQL", Server::forwarding(&postgres.new_database(), &upstream.address))
            .random_ids(),
    ];
    table::run(&mut columns, rounds, requests);
    println!("\nthe forwarded action\n");
    table::report(&columns, 0, rounds, requests);
    drop(columns);
    let proxy = Proxy::start(postgres.port());
    println!("\nround trips of one execution");
    for (name, server) in [
        ("built-in", Server::openexec(&proxy.url(), "warn")),
        ("forwarded", Server::forwarding(&proxy.url(), &upstream.address)),
    ] {
        let before = proxy.round_trips();
        Load::mint(2_000, 1_024, Ids::Random).run(&server.address, CONNECTIONS);
        // The keeper's own, one each five seconds, are among them.
        println!("{name:<12}{:.3}", (proxy.round_trips() - before) as f64 / 2_000.0);
    }
}

/// Rows that were there before, and what a claim takes then.
pub(crate) fn growth(requests: usize) {
    let most: u64 = std::env::var("BENCH_ROWS").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000_000);
    let postgres = Postgres::with(&SETTINGS);
    let server = Server::openexec(&postgres.url(), "warn");
    println!("\none client, one claim after the other, as the table grows; then {CONNECTIONS} clients\n");
    println!("{:>10} {:>9} {:>9} {:>9} {:>9} {:>9}", "rows", "p50 ms", "p99 ms", "p50 ms", "p99 ms", "MiB");
    let mut rows = 0;
    for target in [0, 10_000, 100_000, 1_000_000, 2_500_000, 5_000_000] {
        if target > most {
            break;
        }
        fill(&postgres, rows, target);
        rows = target;
        let alone = Load::mint(requests / 10, 1_024, Ids::Random).run(&server.address, 1);
        let many = Load::mint(requests, 1_024, Ids::Random).run(&server.address, CONNECTIONS);
        let size = postgres.sql("SELECT pg_total_relation_size('openexec_executions') / 1048576");
        let [a, b, c, d] = [alone.p50_ms, alone.p99_ms, many.p50_ms, many.p99_ms];
        println!("{target:>10} {a:>9.3} {b:>9.3} {c:>9.3} {d:>9.3} {size:>9}");
    }
    println!("\nhow the statements find their rows\n");
    for (name, sql) in PLANS {
        println!("{name}\n{}\n", postgres.sql(&format!("EXPLAIN (COSTS OFF) {sql}")));
    }
}

const PLANS: [(&str, &str); 5] = [
    ("the execution of a nonce", "SELECT * FROM openexec_executions WHERE tenant = 'tenant-001' AND nonce = 'n'"),
    (
        "what is not settled",
        "SELECT * FROM openexec_executions WHERE state IN ('INTENT', 'UNKNOWN') AND state = 'INTENT'",
    ),
    ("the newest", "SELECT * FROM openexec_executions ORDER BY seq DESC LIMIT 100"),
    (
        "old results",
        "SELECT seq FROM openexec_executions WHERE result IS NOT NULL AND settled_at < now() ORDER BY settled_at LIMIT 128",
    ),
    ("the oldest executions", "SELECT seq FROM openexec_executions ORDER BY seq LIMIT 128"),
];

/// Executions of long ago, with results of half a kilobyte.
fn fill(postgres: &Postgres, from: u64, to: u64) {
    postgres.sql(&format!(
        "INSERT INTO openexec_executions
             (id, tenant, nonce, action, action_hash, state, claimed_at, settled_at, approval_id, claim_token, receipt, result)
         SELECT gen_random_uuid()::text, 'tenant-001', gen_random_uuid()::text, 'echo', repeat('a', 64), 'DONE',
                now() - interval '1 day', now() - interval '1 day', gen_random_uuid()::text, n, repeat('b', 64),
                '\"' || repeat(md5(n::text), 16) || '\"'
         FROM generate_series({from} + 1, {to}) AS n"
    ));
    postgres.sql("ANALYZE openexec_executions");
}

/// The ledger may be a database, which a server reaches after it listens.
pub(crate) fn is_ready(admin: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(admin) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    stream.read_to_string(&mut text).is_ok() && text.starts_with("HTTP/1.1 200")
}
