//! Three replicas and the database that they share, killed at random instants under load: one of the replicas, the database,
//! or both. The service's own record of effects is the judge.

use std::time::Duration;

use crate::database::Postgres;
use crate::fleet::{Fleet, Load, random, sleep_up_to};
use crate::judge::{Service, gate, settle};
use crate::support::free;

/// `make evidence` asks for more.
const CYCLES: &str = "OPENEXEC_TEST_REPLICA_KILL_CYCLES";
const REPLICAS: usize = 3;
const CLIENTS: usize = 8;
/// So that some run whenever somebody is killed.
const SLOW: Duration = Duration::from_millis(20);
/// With the shortest lease, so that what a killed replica left is found out about under load.
pub const LEDGER: &str = "ledger: {lease: 3s, statement_timeout: 2s, connect_timeout: 1s}\nreplay: {wait: 1s}";

#[test]
fn no_effect_is_doubled_and_no_result_lost_whichever_replica_is_killed() {
    let cycles: usize = std::env::var(CYCLES).map_or(24, |cycles| cycles.parse().unwrap());
    let database = Postgres::start();
    let address = free();
    let setup = gate(&address, LEDGER).with("OPENEXEC_DB_URL", &database.url());
    let service = Service::start(address, &setup.directory.path().join("effects.jsonl"), SLOW);
    let mut fleet = Fleet::start(setup, REPLICAS);
    let load = Load::default();
    let addresses = fleet.addresses();
    let (mut replicas_killed, mut databases_killed) = (0, 0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (load, addresses) = (&load, &addresses);
            scope.spawn(move || load.client(addresses, client));
        }
        for cycle in 0..cycles {
            let victim = random(REPLICAS);
            let (is_replica, is_database) = (cycle % 4 != 2, cycle % 4 >= 2);
            std::thread::sleep(Duration::from_millis(100));
            sleep_up_to(300);
            if is_database {
                database.kill();
                databases_killed += 1;
            }
            if is_replica {
                fleet.kill(victim);
                replicas_killed += 1;
            }
            sleep_up_to(100);
            if is_database {
                database.restart();
            }
            if is_replica {
                fleet.restart(victim);
            }
        }
        load.stop();
    });
    fleet.await_ready();
    let left = settle(fleet.admin(0), &service);
    let seen = load.seen.into_inner().unwrap().ask_all_again(&addresses);
    let effects = service.effects();
    seen.judge(&effects);
    assert_eq!(database.sql("SELECT fence IS NULL FROM openexec_meta"), "t");
    assert!(seen.answers.len() > cycles, "there was a load");
    println!(
        "{replicas_killed} replicas and {databases_killed} databases killed, {} requests ({} of them idempotent), \
         {} answered, {} effects, {left} leftovers settled, refusals {:?}",
        seen.sent.len(),
        seen.keyed(),
        seen.answers.len(),
        effects.len(),
        seen.codes
    );
}
