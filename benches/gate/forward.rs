//! The forwarded action: two durable commits around one request to a service, against gateways that keep no record.

use std::process::Command;

use crate::process::Server;
use crate::{Column, table};

const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gate/peers");

pub(crate) fn measure(rounds: usize, requests: usize) {
    let (nginx, envoy) = set_up();
    let upstream = Server::role("upstream", &[]);
    let to = &upstream.address;
    let mut columns = vec![
        Column::new("Pingora, only passing", Server::role("passing", &[to])),
        Column::new("nginx, only passing", Server::nginx(&nginx, PEERS, "nginx.conf", to)),
        Column::new("Envoy, only passing", Server::envoy(&envoy, PEERS, "envoy.yaml", to, None)),
        Column::new("nginx, HMAC in Lua", Server::nginx(&nginx, PEERS, "nginx-lua.conf", to)).verifying(),
        Column::new(
            "Envoy, ext_authz (HMAC)",
            Server::envoy(&envoy, PEERS, "envoy-ext-authz.yaml", to, Some(Server::role("verifier", &[]))),
        )
        .verifying(),
        Column::new("openexec, memory:", Server::forwarding("memory:", to)).verifying(),
        Column::new("openexec, SQLite synced", Server::forwarding("sqlite", to)).verifying(),
        Column::new("  the same, random ids", Server::forwarding("sqlite", to)).verifying().random_ids(),
    ];
    table::run(&mut columns, rounds, requests);
    println!("\nthe forwarded action: each behind the same service, which takes its share of the cores\n");
    table::report(&columns, 2, rounds, requests);
}

/// The programs, installed if they are not there.
fn set_up() -> (String, String) {
    let directory = concat!(env!("CARGO_TARGET_TMPDIR"), "/peers");
    let setup = Command::new("bash").args([&format!("{PEERS}/setup.sh"), directory]).output().unwrap();
    let said = String::from_utf8(setup.stdout).unwrap();
    assert!(setup.status.success(), "the peers cannot be had: {}", String::from_utf8_lossy(&setup.stderr));
    let path = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    (path("nginx "), path("envoy "))
}
