//! PgBouncer in between, which lends its connections for one transaction at a time.

use serde_json::json;

use super::{actions, executions, must_work, replica, start, until};
use crate::database::{PgBouncer, Postgres};
use crate::recovery::{READ_TOKEN, TOKEN, admin};
use crate::service::{After, Service, json as json_answer};
use crate::support::{Approval, approved};

#[test]
fn everything_works_through_a_pooler_in_transaction_mode() {
    let service = Service::start(|seen, stream| match seen.asked().as_str() {
        "lost" => After::Reset,
        _ => json_answer(stream, "200 OK", r#"{"sent":true}"#),
    });
    let server = Postgres::shared();
    let pool = PgBouncer::start(server);
    let url = server.new_database().replace(&format!(":{}/", server.port()), &format!(":{}/", pool.port()));
    let setup = replica(&url, &actions(service.address, "15s", "60s"));
    let replicas = [start(&setup), start(&setup)];
    // More at once than the pooler has connections.
    std::thread::scope(|scope| {
        for at in 0..24 {
            let replicas = &replicas;
            scope.spawn(move || {
                let id = format!("many-{}", at / 2);
                let action = if at % 4 < 2 { "plain" } else { "echo" };
                let body =
                    approved(action, &json!({"do": "ok"}), &id, &Approval { approval_id: &id, ..Approval::default() });
                let first = replicas[at % 2].execute(&body);
                assert_eq!(first.status, 200, "{}", first.text());
                assert_eq!(replicas[1 - at % 2].execute(&body).body, first.body);
            });
        }
    });
    assert_eq!(service.times("ok"), 6);
    let used = Approval { approval_id: "many-0", ..Approval::default() };
    replicas[0].execute(&approved("plain", &json!({"do": "ok"}), "x", &used)).must_be(403, "approval_already_used", "");
    let denials = || admin(replicas[1].admin, "GET", "/denials", READ_TOKEN, "").json()["denials"].clone();
    until("the denial is stored", || denials().as_array().is_some_and(|denials| denials.len() == 1));
    let lost = super::wish("plain", "lost", "lost");
    let id = replicas[0].execute(&lost).json()["execution_id"].as_str().unwrap().to_owned();
    assert_eq!(executions(replicas[1].admin, "?state=unknown")[0]["id"], json!(id));
    assert_eq!(executions(replicas[1].admin, "?limit=500").len(), 13);
    let shown = admin(replicas[1].admin, "GET", &format!("/executions/{id}"), READ_TOKEN, "").json();
    assert_eq!(shown["payload"], json!(r#"{"do":"lost"}"#));
    let verdict = r#"{"outcome":"done","result":{"found":1},"by":"ada"}"#;
    let resolved = admin(replicas[1].admin, "POST", &format!("/executions/{id}/resolve"), TOKEN, verdict);
    assert_eq!((resolved.status, &resolved.json()["state"]), (200, &json!("DONE")), "{}", resolved.text());
    assert_eq!(replicas[0].execute(&lost).must_be_executed(true)["result"], json!({"found": 1}));
    replicas.iter().for_each(|replica| must_work(replica.address));
}
