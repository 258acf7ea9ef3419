//! Finds what is old enough to be forgotten, beside the writer, which then only touches those rows.

use chrono::{DateTime, Utc};
use openexec_protocol::timestamp;
use rusqlite::{Connection, Params};

use super::{meta, schema};
use crate::ledger::Horizon;

/// Rows of one kind that are forgotten in one commit: each dirties some pages of its own.
const MOST_ROWS: usize = 128;
/// Bytes of results forgotten in one commit: the pages of a long one are read, to be freed.
const MOST_BYTES: u64 = 4 << 20;

/// Executions among which results are looked for in one go: a ledger that was pruned may have many without any.
const MOST_LOOKED_AT: i64 = 100_000;

/// Rows of the ledger that may be forgotten.
#[derive(Default)]
pub(super) struct Old {
    pub(super) results: Vec<Row>,
    pub(super) executions: Vec<Row>,
    /// When these are forgotten, no execution up to this one that was settled with its claim has its result.
    pub(super) forgotten_to: Option<i64>,
    /// There are more.
    pub(super) more: bool,
}

pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) tenant: String,
    pub(super) nonce: String,
}

impl Old {
    pub(super) fn is_empty(&self) -> bool {
        self.results.is_empty() && self.executions.is_empty() && self.forgotten_to.is_none()
    }
}

pub(super) fn find(reader: &Connection, horizon: &Horizon) -> rusqlite::Result<Old> {
    let mut old = Old::default();
    let newest: Option<i64> = reader.query_row("SELECT max(seq) FROM executions", [], |row| row.get(0))?;
    if let Some(before) = horizon.results {
        results(reader, before, newest.unwrap_or(0), &mut old)?;
    }
    if let Some(before) = horizon.executions {
        old.more |= settled(reader, schema::OLDEST, [], before, &mut old.executions)?.is_full();
        // The newest row stays, or it would be found again and again.
        old.executions.retain(|row| Some(row.seq) != newest);
    }
    Ok(old)
}

fn results(reader: &Connection, before: DateTime<Utc>, newest: i64, old: &mut Old) -> rusqlite::Result<()> {
    let from = meta(reader, schema::RESULTS_FORGOTTEN_TO)?.and_then(|text| text.parse().ok()).unwrap_or(0);
    let to = newest.min(from + MOST_LOOKED_AT);
    let stopped = settled(reader, schema::KEPT, [from, to], before, &mut old.results)?;
    let reached = match stopped {
        Stopped::End => to,
        Stopped::Young(seq) | Stopped::Full(seq) => seq - 1,
    };
    old.forgotten_to = Some(reached).filter(|reached| *reached > from);
    old.more |= stopped.is_full() || (reached == to && to < newest);
    old.more |= settled(reader, schema::KEPT_LATE, [], before, &mut old.results)?.is_full();
    Ok(())
}

/// Why no more were found.
enum Stopped {
    /// There are none.
    End,
    /// From here on they are too young.
    Young(i64),
    /// From here on they have to wait.
    Full(i64),
}

impl Stopped {
    fn is_full(&self) -> bool {
        matches!(self, Stopped::Full(_))
    }
}

/// Rows are in the order of their claims, but for a clock that was set back: then some
/// stay longer. One that was settled late stays as long as the others after that.
fn settled(
    reader: &Connection,
    sql: &str,
    among: impl Params,
    before: DateTime<Utc>,
    found: &mut Vec<Row>,
) -> rusqlite::Result<Stopped> {
    // One spelling of time: its order is that of the texts.
    let before = timestamp::print(before);
    let mut statement = reader.prepare_cached(sql)?;
    let mut rows = statement.query(among)?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let seq = row.get(0)?;
        if row.get_ref(3)?.as_str()? >= before.as_str() {
            return Ok(Stopped::Young(seq));
        }
        if row.get_ref(4)?.as_str_or_null()?.is_none_or(|settled_at| settled_at >= before.as_str()) {
            continue;
        }
        if found.len() == MOST_ROWS || bytes > MOST_BYTES {
            return Ok(Stopped::Full(seq));
        }
        bytes += row.get::<_, u32>(5)? as u64;
        found.push(Row { seq, tenant: row.get(1)?, nonce: row.get(2)? });
    }
    Ok(Stopped::End)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use chrono::TimeDelta;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rusqlite::params;

    use super::*;
    use crate::ledger::sqlite::statements::Statements;

    fn ledger() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(schema::CREATE).unwrap();
        connection
    }

    /// A second of the test's.
    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    fn text(second: i64) -> String {
        timestamp::print(at(second))
    }

    /// Whether it was settled with its claim, has a claim that is not settled, or came unknown from elsewhere.
    fn put(connection: &Connection, second: i64, state: &str, claim: Option<i64>) {
        let done = (state == "DONE").then(|| text(second));
        connection
            .prepare_cached(
                "INSERT INTO executions (id, tenant, nonce, action, action_hash, state, claimed_at, settled_at, result,
                                         claim_token)
                 SELECT n, 't', n, 'a', 'h', ?1, ?2, ?3, CASE WHEN ?3 IS NOT NULL THEN 'r' END, ?4
                 FROM (SELECT coalesce(max(seq), 0) + 1 AS n FROM executions)",
            )
            .unwrap()
            .execute(params![state, text(second), done, claim])
            .unwrap();
    }

    /// Until there is nothing more that old.
    fn forget(connection: &Connection, before: i64) -> usize {
        let horizon = Horizon { results: Some(at(before)), executions: None, skew: TimeDelta::zero() };
        let mut statements = Statements::prepare(connection).unwrap();
        let mut results = 0;
        loop {
            let old = find(connection, &horizon).unwrap();
            if old.is_empty() {
                return results;
            }
            let found: BTreeSet<i64> = old.results.iter().map(|row| row.seq).collect();
            assert_eq!(found.len(), old.results.len(), "each is found once");
            let forgotten = statements.forget(old, &horizon, None).unwrap();
            results += forgotten.results;
            if !forgotten.more {
                return results;
            }
        }
    }

    /// When those were settled that have their results, by `seq`.
    fn kept(connection: &Connection) -> BTreeMap<i64, String> {
        let sql = "SELECT seq, settled_at FROM executions WHERE result IS NOT NULL";
        let mut kept = connection.prepare(sql).unwrap();
        kept.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// The clock, which may be set back.
        Wait(i64),
        AtOnce(usize),
        Claim,
        Imported,
        /// Of those that are not settled, if there is any.
        Settle(usize),
        /// What is older than so much.
        Forget(i64),
        Prune(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (-20..40_i64).prop_map(Step::Wait),
            (1..200_usize).prop_map(Step::AtOnce),
            Just(Step::Claim),
            Just(Step::Imported),
            any::<usize>().prop_map(Step::Settle),
            (0..60_i64).prop_map(Step::Forget),
            (0..60_i64).prop_map(Step::Prune),
        ]
    }

    fn settle(connection: &Connection, which: usize, now: i64) {
        let sql = "SELECT seq FROM executions WHERE state = 'INTENT' OR state = 'UNKNOWN' ORDER BY seq";
        let mut unsettled = connection.prepare(sql).unwrap();
        let unsettled: Vec<i64> = unsettled.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        if let Some(seq) = unsettled.get(which % unsettled.len().max(1)) {
            let sql = "UPDATE executions SET state = 'DONE', settled_at = ?2, result = 'r' WHERE seq = ?1";
            connection.execute(sql, params![seq, text(now)]).unwrap();
        }
    }

    proptest! {
        #[test]
        fn no_result_is_forgotten_too_soon_and_none_is_left_in_the_end(steps in vec(step(), 1..60)) {
            let connection = ledger();
            // Behind the time of what was claimed elsewhere, and imported.
            let mut now = 1_000;
            for step in steps {
                match step {
                    Step::Wait(seconds) => now += seconds,
                    Step::AtOnce(count) => (0..count).for_each(|_| put(&connection, now, "DONE", None)),
                    Step::Claim => put(&connection, now, "INTENT", Some(7)),
                    Step::Imported => put(&connection, 0, "UNKNOWN", None),
                    Step::Settle(which) => settle(&connection, which, now),
                    Step::Forget(age) => {
                        let had = kept(&connection);
                        forget(&connection, now - age);
                        let has = kept(&connection);
                        let lost = had.iter().filter(|(seq, _)| !has.contains_key(seq));
                        for (_, settled_at) in lost {
                            prop_assert!(*settled_at < text(now - age));
                        }
                    }
                    Step::Prune(age) => {
                        let sql = "UPDATE executions SET result = NULL WHERE result IS NOT NULL AND settled_at < ?1";
                        connection.execute(sql, [text(now - age)]).unwrap();
                    }
                }
            }
            forget(&connection, i64::from(u32::MAX));
            prop_assert_eq!(kept(&connection), BTreeMap::new());
        }
    }

    #[test]
    fn many_executions_without_results_are_passed_once() {
        let connection = ledger();
        connection
            .execute(
                "INSERT INTO executions (id, tenant, nonce, action, action_hash, state, claimed_at, settled_at)
                 WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT ?1)
                 SELECT n, 't', n, 'a', 'h', 'DONE', ?2, ?2 FROM n",
                params![MOST_LOOKED_AT + 1, text(1)],
            )
            .unwrap();
        put(&connection, 2, "DONE", None);
        put(&connection, 3, "DONE", None);
        let horizon = Horizon { results: Some(at(3)), executions: None, skew: TimeDelta::zero() };
        let first = find(&connection, &horizon).unwrap();
        assert_eq!((first.forgotten_to, first.more, first.results.len()), (Some(MOST_LOOKED_AT), true, 0));
        assert_eq!(forget(&connection, 3), 1);
        let rest = find(&connection, &horizon).unwrap();
        assert!(rest.is_empty() && !rest.more);
        assert_eq!(meta(&connection, schema::RESULTS_FORGOTTEN_TO).unwrap(), Some((MOST_LOOKED_AT + 2).to_string()));
        assert_eq!(forget(&connection, 4), 1);
    }

    /// A statement may fail alone, and the commit around it go on.
    #[test]
    fn what_could_not_be_forgotten_is_not_passed() {
        let connection = ledger();
        (0..3).for_each(|second| put(&connection, second, "DONE", None));
        connection
            .execute_batch(
                "CREATE TRIGGER fails BEFORE UPDATE ON executions WHEN old.seq = 2
                 BEGIN SELECT raise(ABORT, 'as if the disk were full'); END",
            )
            .unwrap();
        let horizon = Horizon { results: Some(at(3)), executions: None, skew: TimeDelta::zero() };
        let old = find(&connection, &horizon).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(Statements::prepare(&connection).unwrap().forget(old, &horizon, None).is_err());
        connection.execute_batch("COMMIT; DROP TRIGGER fails").unwrap();
        assert_eq!(forget(&connection, 3), 2);
        assert_eq!(kept(&connection), BTreeMap::new());
    }

    #[test]
    fn late_results_are_found_by_their_index_and_the_others_by_their_place() {
        let connection = ledger();
        let plan = |sql: &str| -> String {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let bound = vec![1; plan.parameter_count()];
            let mut rows = plan.query(rusqlite::params_from_iter(bound)).unwrap();
            let mut text = String::new();
            while let Some(row) = rows.next().unwrap() {
                text += &row.get::<_, String>(3).unwrap();
            }
            text
        };
        assert_eq!(plan(schema::KEPT_LATE), "SCAN executions USING INDEX executions_late");
        assert_eq!(plan(schema::KEPT), "SEARCH executions USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)");
    }

    #[test]
    fn an_older_ledger_begins_where_its_first_result_is() {
        for (results, forgotten_to) in [(&[3, 4][..], "2"), (&[], "5")] {
            let connection = ledger();
            (0..5).for_each(|second| put(&connection, second, "DONE", None));
            connection.execute_batch("UPDATE executions SET result = NULL").unwrap();
            for seq in results {
                connection.execute("UPDATE executions SET result = 'r' WHERE seq = ?1", [seq]).unwrap();
            }
            connection
                .execute_batch(
                    "DROP INDEX executions_late; CREATE INDEX executions_kept ON executions (seq) WHERE result IS NOT NULL",
                )
                .unwrap();
            connection.execute_batch(schema::MIGRATE_4).unwrap();
            assert_eq!(meta(&connection, schema::RESULTS_FORGOTTEN_TO).unwrap().unwrap(), forgotten_to);
            put(&connection, 5, "DONE", None);
            assert_eq!(forget(&connection, 6), results.len() + 1);
        }
    }
}
