//! Standbys that become primaries: what was acknowledged is there, or approvals from before are refused.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::database::{Postgres, Proxy, wait_until};
use crate::fleet::{Fleet, Load, sleep_up_to};
use crate::judge::{Sent, Service, gate, settle};
use crate::support::{Approval, Client, Response, Server, Setup, approved, free};

/// `make evidence` asks for more.
const PROMOTIONS: &str = "OPENEXEC_TEST_PROMOTIONS";

/// A primary behind a proxy, and who follows it.
struct Cluster {
    primary: Postgres,
    standby: Postgres,
    proxy: Proxy,
}

impl Cluster {
    /// Nobody waits for the standby.
    fn asynchronous() -> Self {
        let primary = Postgres::start();
        let standby = primary.standby("standby");
        let proxy = Proxy::start(primary.port());
        Cluster { primary, standby, proxy }
    }

    /// Commits wait for the standby.
    fn synchronous() -> Self {
        let cluster = Cluster::asynchronous();
        cluster.wait_for("standby");
        cluster
    }

    fn wait_for(&self, name: &str) {
        self.primary.set("synchronous_standby_names", name);
        let state = format!("SELECT sync_state FROM pg_stat_replication WHERE application_name = '{name}'");
        wait_until("commits wait for the standby", || self.primary.sql(&state) == "sync");
    }

    /// The standby, one of so many, gets nothing more. What it has got already it would still replay after a pause.
    fn cut_off(&self, standbys: usize) {
        self.standby.set("primary_conninfo", "");
        let left = "SELECT count(*) FROM pg_stat_replication";
        wait_until("it is cut off", || self.primary.sql(left) == (standbys - 1).to_string());
    }

    /// The primary is gone, and the standby is in its place.
    fn fail_over(&self) {
        self.primary.kill();
        self.promote();
    }

    fn promote(&self) {
        self.standby.promote();
        self.proxy.forward_to(self.standby.port());
        self.proxy.cut_all();
    }

    /// The one in the primary's place gets a standby for which commits wait.
    fn go_on(&mut self, name: &str) {
        let standby = self.standby.standby(name);
        self.primary = std::mem::replace(&mut self.standby, standby);
        self.wait_for(name);
    }

    /// With this of `ledger` beside.
    fn setup(&self, ledger: &str) -> Setup {
        Setup::clawshield()
            .with("OPENEXEC_DB_URL", &self.proxy.url())
            .file(&format!("ledger: {{{ledger}}}\napproval: {{clock_skew: 1s}}"))
    }
}

/// Short, so that a failover of which nobody knows is over soon; long enough for replicas that find back.
const LEASE: &str = "lease: 6s, connect_timeout: 1s";

/// Approved now.
fn echo(approval_id: &str, nonce: &str) -> String {
    approved("echo", &json!({"approval": approval_id}), nonce, &Approval { approval_id, ..Approval::default() })
}

fn readiness(admin: SocketAddr) -> Response {
    Client::connect(admin).get("/readyz")
}

fn is_ready(server: &Server) -> bool {
    readiness(server.admin).status == 200
}

/// Serves when it is there.
fn start(setup: &Setup) -> Server {
    let server = setup.start();
    wait_until("it serves", || is_ready(&server));
    server
}

fn fence(database: &Postgres) -> Option<String> {
    Some(database.sql("SELECT fence FROM openexec_meta")).filter(|fence| !fence.is_empty())
}

/// Whether a verdict on this server's timeline is there.
fn is_concluded(database: &Postgres) -> bool {
    database.sql("SELECT timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) FROM openexec_meta") == "t"
}

fn await_verdict(database: &Postgres) -> Option<String> {
    wait_until("there is a verdict", || is_concluded(database));
    fence(database)
}

/// Somebody has noted that commits wait; only then can a failover be shown to have lost nothing.
fn await_note(database: &Postgres) {
    wait_until("it is noted", || database.sql("SELECT synchronous FROM openexec_meta") == "t");
}

/// Whoever restored the past refuses what was approved in it, and nothing else.
fn must_refuse_what_was_approved_before(server: &Server, before: &str) {
    wait_until("it serves", || is_ready(server));
    server.execute(before).must_be(403, "approval_predates_ledger", "approve again");
    let fresh = || server.execute(&echo(&Uuid::new_v4().to_string(), &Uuid::new_v4().to_string()));
    wait_until("what is approved now is executed", || fresh().status == 200);
}

#[test]
fn no_effect_is_doubled_and_no_result_lost_by_failovers() {
    let promotions: usize = std::env::var(PROMOTIONS).map_or(3, |promotions| promotions.parse().unwrap());
    let mut cluster = Cluster::synchronous();
    let address = free();
    let ledger = format!("ledger: {{{LEASE}, statement_timeout: 2s}}\nreplay: {{wait: 1s}}");
    let setup = gate(&address, &ledger).with("OPENEXEC_DB_URL", &cluster.proxy.url());
    let record = setup.directory.path().join("effects.jsonl");
    let service = Service::start(address, &record, Duration::from_millis(20));
    let fleet = Fleet::start(setup, 3);
    let load = Load::default();
    let addresses = fleet.addresses();
    std::thread::scope(|scope| {
        for client in 0..6 {
            let (load, addresses) = (&load, &addresses);
            scope.spawn(move || load.client(addresses, client));
        }
        for at in 0..promotions {
            await_note(&cluster.primary);
            sleep_up_to(300);
            let before = Sent::new(at % 2 == 0, &format!("before-{at}"), 0, at);
            cluster.primary.kill();
            sleep_up_to(300);
            cluster.promote();
            assert_eq!(await_verdict(&cluster.standby), None, "nothing was lost, and everybody has said so");
            let response = load.insist(&addresses, &before);
            assert_eq!(response.status, 200, "approved before the failover: {}", response.text());
            cluster.go_on(&format!("standby_{at}"));
        }
        load.stop();
    });
    fleet.await_ready();
    let left = settle(fleet.admin(0), &service);
    let seen = load.seen.into_inner().unwrap().ask_all_again(&addresses);
    let effects = service.effects();
    seen.judge(&effects);
    assert_eq!(fence(&cluster.primary), None);
    println!(
        "{promotions} promotions, {} requests ({} of them idempotent), {} answered, {} effects, {left} leftovers settled, \
         refusals {:?}",
        seen.sent.len(),
        seen.keyed(),
        seen.answers.len(),
        effects.len(),
        seen.codes
    );
}

/// Nobody can know what a standby lacks for which no commit waited.
#[test]
fn after_a_failover_to_an_asynchronous_standby_approvals_from_before_are_refused() {
    let cluster = Cluster::asynchronous();
    let server = start(&cluster.setup(LEASE));
    let executed = server.execute(&echo("used", "n"));
    executed.must_be_executed(false);
    let before = echo("unused", "m");
    let here = cluster.primary.sql("SELECT pg_current_wal_lsn()");
    let has_it = format!("SELECT pg_last_wal_replay_lsn() >= '{here}'");
    wait_until("it has everything, which nobody knows", || cluster.standby.sql(&has_it) == "t");
    cluster.fail_over();
    assert!(await_verdict(&cluster.standby).is_some());
    must_refuse_what_was_approved_before(&server, &before);
    assert_eq!(server.execute(&echo("used", "n")).body, executed.body, "what is stored is given");
}

#[test]
fn what_an_asynchronous_failover_lost_is_not_executed_again() {
    let cluster = Cluster::asynchronous();
    let server = start(&cluster.setup(LEASE));
    server.execute(&echo("kept", "kept")).must_be_executed(false);
    cluster.cut_off(1);
    let lost: Vec<String> = (0..20).map(|at| echo(&format!("lost-{at}"), &format!("lost-{at}"))).collect();
    lost.iter().for_each(|body| drop(server.execute(body).must_be_executed(false)));
    cluster.fail_over();
    assert_eq!(cluster.standby.sql("SELECT count(*) FROM openexec_executions"), "1", "they are lost");
    assert!(await_verdict(&cluster.standby).is_some());
    wait_until("it serves", || is_ready(&server));
    for body in &lost {
        // A finished answer is in the memory of whoever gave it.
        let response = server.execute(body);
        assert!(response.status == 200 || response.status == 403, "{}", response.text());
    }
    let other = start(&cluster.setup(LEASE));
    lost.iter().for_each(|body| other.execute(body).must_be(403, "approval_predates_ledger", ""));
    assert_eq!(cluster.standby.sql("SELECT count(*) FROM openexec_executions"), "1", "none was executed again");
    must_refuse_what_was_approved_before(&server, &renamed(&lost[0], "again"));
}

/// Commits waited for another machine, and this one is not it.
#[test]
fn a_standby_that_lacks_what_was_acknowledged_is_found_out() {
    let cluster = Cluster::asynchronous();
    let second = cluster.primary.standby("second");
    cluster.wait_for("second");
    let server = start(&cluster.setup(LEASE));
    await_note(&cluster.primary);
    await_note(&cluster.standby);
    cluster.cut_off(2);
    let lost = echo("lost", "n");
    server.execute(&lost).must_be_executed(false);
    second.kill();
    cluster.fail_over();
    assert!(await_verdict(&cluster.standby).is_some());
    must_refuse_what_was_approved_before(&server, &renamed(&lost, "again"));
}

/// The same request under another nonce.
fn renamed(body: &str, nonce: &str) -> String {
    let mut body: serde_json::Value = serde_json::from_str(body).unwrap();
    body["nonce"] = json!(nonce);
    body.to_string()
}

/// It may have been told of what is missing, and nobody can ask it.
#[test]
fn a_failover_that_a_replica_does_not_survive_is_fenced_when_its_lease_is_over() {
    let cluster = Cluster::synchronous();
    let mut fleet = Fleet::start(cluster.setup("lease: 3s, connect_timeout: 1s"), 2);
    await_note(&cluster.primary);
    let before = echo("before", "n");
    fleet.kill(1);
    cluster.fail_over();
    let (address, admin) = (fleet.addresses()[0], fleet.admin(0));
    let reason = || readiness(admin).text();
    wait_until("it looks whether anything is missing", || reason().contains("ledger_failover"));
    Client::connect(address).execute(&before).must_be(503, "ledger_unavailable", "");
    assert_eq!(fence(&cluster.standby), None);
    assert!(await_verdict(&cluster.standby).is_some());
    wait_until("it serves", || readiness(admin).status == 200);
    Client::connect(address).execute(&before).must_be(403, "approval_predates_ledger", "");
    let fresh = || Client::connect(address).execute(&echo(&Uuid::new_v4().to_string(), &Uuid::new_v4().to_string()));
    wait_until("what is approved now is executed", || fresh().status == 200);
}

#[test]
fn where_commits_must_wait_nothing_is_claimed_while_they_do_not() {
    let cluster = Cluster::synchronous();
    let server = start(&cluster.setup("require_synchronous: true, lease: 3s"));
    server.execute(&echo("first", "1")).must_be_executed(false);
    cluster.primary.set("synchronous_standby_names", "");
    let second = echo("second", "2");
    server.execute(&second).must_be(503, "ledger_unavailable", "");
    wait_until("it says why", || readiness(server.admin).text().contains("ledger_not_synchronous"));
    assert_eq!(cluster.primary.sql("SELECT count(*) FROM openexec_executions"), "1");
    // What is stored is given all the same.
    server.execute(&echo("first", "1")).must_be_executed(true);
    cluster.wait_for("standby");
    wait_until("it is ready again", || is_ready(&server));
    server.execute(&second).must_be_executed(false);
}

/// Such a commit is reported as done, and the standby need not have it.
#[test]
fn nothing_is_dispatched_on_a_commit_whose_wait_was_cancelled() {
    let cluster = Cluster::synchronous();
    let address = free();
    let setup = gate(&address, "ledger: {lease: 60s, statement_timeout: 30s}");
    let setup = setup.with("OPENEXEC_DB_URL", &cluster.proxy.url());
    let service = Service::start(address, &setup.directory.path().join("effects.jsonl"), Duration::ZERO);
    let server = start(&setup);
    cluster.standby.pause();
    let waiting =
        |statement: &str| format!("FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%{statement}%'");
    let waits = |statement: &str| cluster.primary.sql(&format!("SELECT count(*) {}", waiting(statement))) != "0";
    let cancel =
        |statement: &str| cluster.primary.sql(&format!("SELECT pg_cancel_backend(pid) {}", waiting(statement)));
    let sent = Sent::new(false, "approval", 0, 0);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| server.execute(&sent.body));
        wait_until("the claim waits", || waits("openexec_claim("));
        cancel("openexec_claim(");
        for _ in 0..2 {
            wait_until("it is confirmed", || waits("confirmations + 1"));
            assert_eq!(service.effects().len(), 0, "nothing is dispatched that one machine has alone");
            cancel("confirmations + 1");
        }
        wait_until("it is confirmed again", || waits("confirmations + 1"));
        assert_eq!(service.effects().len(), 0);
        cluster.standby.resume();
        client.join().unwrap().must_be_executed(false);
    });
    assert_eq!(service.effects().len(), 1);
    server.execute(&Sent::new(false, "another", 0, 1).body).must_be_executed(false);
}

/// What the first cluster executed since is not in them.
#[test]
fn tables_that_were_copied_to_another_cluster_are_fenced() {
    let (first, second) = (Postgres::start(), Postgres::unrelated());
    let at = |database: &Postgres| {
        start(&Setup::clawshield().with("OPENEXEC_DB_URL", &database.url()).file("approval: {clock_skew: 1s}"))
    };
    let server = at(&first);
    let executed = server.execute(&echo("kept", "n"));
    executed.must_be_executed(false);
    first.copy_to(&second);
    let later = echo("later", "m");
    server.execute(&later).must_be_executed(false);
    drop(server);
    let server = at(&second);
    assert!(fence(&second).is_some());
    must_refuse_what_was_approved_before(&server, &later);
    assert_eq!(server.execute(&echo("kept", "n")).body, executed.body);
    assert_eq!(fence(&first), None);
}

/// On the same timeline, so that nothing but what is missing tells.
#[test]
fn a_disk_that_was_put_back_is_found_out() {
    let database = Postgres::start();
    let file = "ledger: {connect_timeout: 1s}\napproval: {clock_skew: 1s}";
    let server = start(&Setup::clawshield().with("OPENEXEC_DB_URL", &database.url()).file(file));
    server.execute(&echo("kept", "kept")).must_be_executed(false);
    database.save();
    wait_until("it serves again", || is_ready(&server));
    assert_eq!(fence(&database), None, "a stop and a start lose nothing");
    let lost = echo("lost", "lost");
    server.execute(&lost).must_be_executed(false);
    database.put_back();
    wait_until("it is found out", || fence(&database).is_some());
    must_refuse_what_was_approved_before(&server, &renamed(&lost, "again"));
}

/// The others find all that is theirs.
#[test]
fn a_replica_that_the_new_primary_never_knew_is_found_out() {
    let cluster = Cluster::asynchronous();
    let second = cluster.primary.standby("second");
    cluster.wait_for("second");
    let old = start(&cluster.setup("lease: 90s, connect_timeout: 1s"));
    await_note(&cluster.primary);
    await_note(&cluster.standby);
    cluster.proxy.hold("UPDATE openexec_replicas");
    cluster.cut_off(2);
    let proxy = Proxy::start(cluster.primary.port());
    let new = start(&cluster.setup("lease: 90s, connect_timeout: 1s").with("OPENEXEC_DB_URL", &proxy.url()));
    let lost = echo("lost", "n");
    new.execute(&lost).must_be_executed(false);
    second.kill();
    cluster.fail_over();
    assert_eq!(await_verdict(&cluster.standby), None, "nobody knows better");
    proxy.forward_to(cluster.standby.port());
    proxy.cut_all();
    wait_until("it is found out", || fence(&cluster.standby).is_some());
    must_refuse_what_was_approved_before(&new, &renamed(&lost, "again"));
    // It need not have heard of the fence yet.
    assert_eq!(old.execute(&renamed(&lost, "once more")).status, 403);
}

/// The row is there, and says that nobody knows what somebody was told.
#[test]
fn a_result_that_the_new_primary_lacks_is_found_out() {
    let cluster = Cluster::asynchronous();
    let second = cluster.primary.standby("second");
    cluster.wait_for("second");
    let address = free();
    let setup = gate(&address, "ledger: {lease: 90s, connect_timeout: 1s}\napproval: {clock_skew: 25s}");
    let setup = setup.with("OPENEXEC_DB_URL", &cluster.proxy.url());
    let service = Service::start(address, &setup.directory.path().join("effects.jsonl"), Duration::ZERO);
    let server = start(&Setup { file: setup.file.clone().map(|file| file.replace("1500ms", "30s")), ..setup });
    await_note(&cluster.primary);
    service.pause();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| server.execute(&Sent::new(false, "approval", 0, 0).body));
        let unknown = "UPDATE openexec_executions SET state = 'UNKNOWN', settled_at = now() RETURNING seq";
        wait_until("it runs, and others take it for dead", || !cluster.primary.sql(unknown).is_empty());
        let state = "SELECT state FROM openexec_executions";
        wait_until("the standby has that", || cluster.standby.sql(state) == "UNKNOWN");
        cluster.proxy.hold("UPDATE openexec_replicas");
        cluster.cut_off(2);
        service.resume();
        client.join().unwrap().must_be_executed(false);
        assert_eq!((cluster.primary.sql(state), cluster.standby.sql(state)), ("DONE".into(), "UNKNOWN".into()));
    });
    second.kill();
    cluster.fail_over();
    assert!(await_verdict(&cluster.standby).is_some());
}

/// Found again where it may not be stored, it is not taken for stored.
#[test]
fn a_claim_is_confirmed_only_where_it_could_be_made() {
    let cluster = Cluster::synchronous();
    let address = free();
    let ledger = "ledger: {lease: 60s, statement_timeout: 30s, require_synchronous: true}";
    let setup = gate(&address, ledger).with("OPENEXEC_DB_URL", &cluster.proxy.url());
    let service = Service::start(address, &setup.directory.path().join("effects.jsonl"), Duration::ZERO);
    let server = start(&setup);
    let sent = Sent::new(false, "approval", 0, 0);
    cluster.standby.pause();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| server.execute(&sent.body));
        let waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%openexec_claim(%'";
        wait_until("the claim waits", || cluster.primary.sql(&format!("SELECT count(*) {waiting}")) == "1");
        cluster.proxy.hold("openexec_claim(");
        cluster.primary.sql(&format!("SELECT pg_cancel_backend(pid) {waiting}"));
        wait_until("it is made again", || cluster.proxy.held() == 1);
        cluster.primary.set("synchronous_standby_names", "");
        cluster.proxy.release();
        client.join().unwrap().must_be(503, "ledger_unavailable", "");
    });
    assert_eq!(service.effects().len(), 0);
    cluster.standby.resume();
    cluster.wait_for("standby");
    wait_until("it is executed at last", || server.execute(&sent.body).status == 200);
    assert_eq!(service.effects().len(), 1);
}
