//! Care for a ledger that is a database: from a command, so one statement after the other, on one connection.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use deadpool::managed::Object;
use openexec_protocol::timestamp;
use tokio::runtime::Runtime;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::connect::{Server, pool};
use super::open::{Refused, ask, command, connect, look, migrate as make_tables};
use super::shared::Parameters;
use super::{MOST_BYTES, MOST_ROWS, row, schema, sql};
use crate::config::ledger::PostgresConfig;
use crate::ledger::care::line::Line;
use crate::ledger::care::{About, CareError, Pruned, Source, Target};
use crate::ledger::fence::whole_micros;
use crate::ledger::{LedgerError, OpenError};

impl From<Refused> for CareError {
    fn from(refused: Refused) -> Self {
        CareError::Open(OpenError::from(refused))
    }
}

impl From<LedgerError> for CareError {
    fn from(error: LedgerError) -> Self {
        Refused::Statement(error.to_string()).into()
    }
}

/// A connection, with what drives it.
struct Session {
    // Before the runtime, which drives its end.
    connected: Object<Server>,
    runtime: Runtime,
}

impl Session {
    /// With a ledger of this version.
    fn open(config: &PostgresConfig, may_make: bool) -> Result<Self, CareError> {
        let runtime = runtime()?;
        let connected = runtime.block_on(async {
            let connections = pool(config, 1);
            look(config, &connections, may_make).await?;
            connect(&connections).await
        });
        Ok(Session { connected: connected.map_err(Refused::from)?, runtime })
    }

    fn ask(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, CareError> {
        Ok(self.runtime.block_on(ask(&self.connected, sql, parameters)).map_err(Refused::from)?)
    }

    fn command(&self, sql: &str) -> Result<(), CareError> {
        Ok(self.runtime.block_on(command(&self.connected, sql)).map_err(Refused::from)?)
    }
}

fn runtime() -> Result<Runtime, CareError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(|error| CareError::Open(OpenError::Thread(error)))
}

fn get<'r, T: FromSql<'r>>(row: &'r Row, at: usize) -> Result<T, CareError> {
    Ok(row::get(row, at)?)
}

/// See [`care::migrate`](crate::ledger::care::migrate).
pub(in crate::ledger) fn migrate(config: &PostgresConfig) -> Result<String, CareError> {
    let version = runtime()?.block_on(make_tables(config))?;
    Ok(format!("the ledger's tables have version {version}"))
}

/// See [`care::raise`](crate::ledger::care::raise). Beside servers: each claim compares it.
pub(in crate::ledger) fn raise(config: &PostgresConfig, skew: TimeDelta) -> Result<DateTime<Utc>, CareError> {
    let session = Session::open(config, false)?;
    let (skew, now) = (skew.as_seconds_f64(), Utc::now());
    let rows = session.ask(sql::RAISE, &[(&skew, Type::FLOAT8), (&now, Type::TIMESTAMPTZ)])?;
    rows.first().map_or(Err(LedgerError::Unavailable.into()), |row| get(row, 0))
}

/// See [`care::prune`](crate::ledger::care::prune). Beside servers, in small statements: whoever claims does not wait.
pub(in crate::ledger) fn prune(
    config: &PostgresConfig,
    results_before: Option<DateTime<Utc>>,
    executions_before: Option<DateTime<Utc>>,
    skew: TimeDelta,
) -> Result<Pruned, CareError> {
    let session = Session::open(config, false)?;
    let mut pruned = Pruned { results: 0, executions: 0, fence: None };
    if let Some(before) = executions_before {
        let fence = whole_micros(before + skew);
        session.ask(RAISE_FOR_PRUNING, &[(&fence, Type::TIMESTAMPTZ), (&before, Type::TIMESTAMPTZ)])?;
        // A claim that began before that has ended then.
        std::thread::sleep(config.statement_timeout.min(LONGEST_WAIT));
        let parameters = &[(&before as _, Type::TIMESTAMPTZ), (&MOST_ROWS as _, Type::INT8)];
        pruned.executions = until_none(|| session.ask(sql::FORGET_EXECUTIONS, parameters))?;
    }
    if let Some(before) = results_before {
        let parameters =
            &[(&before as _, Type::TIMESTAMPTZ), (&MOST_ROWS as _, Type::INT8), (&MOST_BYTES as _, Type::INT8)];
        pruned.results = until_none(|| session.ask(sql::FORGET_RESULTS, parameters))?;
    }
    let meta = session.ask(sql::META, &[])?;
    pruned.fence = meta.first().map_or(Ok(None), |row| get(row, 2))?;
    Ok(pruned)
}

const LONGEST_WAIT: Duration = Duration::from_secs(10);

const RAISE_FOR_PRUNING: &str = "
UPDATE openexec_meta SET fence = GREATEST(fence, $1), forgettable = GREATEST(forgettable, $2) RETURNING fence";

fn until_none(mut forget: impl FnMut() -> Result<Vec<Row>, CareError>) -> Result<u64, CareError> {
    let mut forgotten = 0;
    loop {
        match forget()?.len() {
            0 => return Ok(forgotten),
            some => forgotten += some as u64,
        }
    }
}

/// One state of the tables, whoever uses them.
pub(in crate::ledger) struct Snapshot(Session);

impl Snapshot {
    pub(in crate::ledger) fn of(config: &PostgresConfig) -> Result<Self, CareError> {
        let session = Session::open(config, false)?;
        session.command("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        Ok(Snapshot(session))
    }
}

impl Source for Snapshot {
    fn about(&mut self, _: bool) -> Result<About, CareError> {
        let meta = self.0.ask(sql::META, &[])?;
        let meta = meta.first().ok_or(LedgerError::Unavailable)?;
        let replicas = self.0.ask(LIVING, &[])?;
        let living: i64 = replicas.first().map_or(Ok(0), |row| get(row, 0))?;
        Ok(About {
            ledger_id: get(meta, 0)?,
            served_clawshield: get(meta, 1)?,
            fence: get(meta, 2)?,
            more: vec![("replicas", living.to_string()), ("tables", format!("version {}", schema::VERSION))],
            problems: Vec::new(),
        })
    }

    fn each(&mut self, put: &mut dyn FnMut(Line) -> Result<(), CareError>) -> Result<(), CareError> {
        let mut after = 0_i64;
        loop {
            let page = self.0.ask(PAGE, &[(&after, Type::INT8), (&PAGE_ROWS, Type::INT8)])?;
            let Some(last) = page.last() else { return Ok(()) };
            after = get(last, 19)?;
            page.iter().try_for_each(|row| put(line(row)?))?;
        }
    }
}

/// Results may have a megabyte each.
const PAGE_ROWS: i64 = 64;

const LIVING: &str = "SELECT count(*) FROM openexec_replicas WHERE lease_until > now()";

const PAGE: &str = "
SELECT id, tenant, nonce, action, action_hash, state, claimed_at, settled_at, approval_id, status, receipt, result,
       headers, payload, route, policy, settled_by, key_id, caller, seq
FROM openexec_executions WHERE seq > $1 ORDER BY seq LIMIT $2";

fn line(row: &Row) -> Result<Line, CareError> {
    let status = get::<Option<i32>>(row, 9)?.map(u16::try_from).transpose();
    Ok(Line {
        id: get(row, 0)?,
        tenant: get(row, 1)?,
        nonce: get(row, 2)?,
        action: get(row, 3)?,
        action_hash: get(row, 4)?,
        state: get(row, 5)?,
        claimed_at: timestamp::print(get(row, 6)?),
        settled_at: get::<Option<DateTime<Utc>>>(row, 7)?.map(timestamp::print),
        approval_id: get(row, 8)?,
        status: status.map_err(|_| LedgerError::Unavailable)?,
        receipt: get(row, 10)?,
        result: get(row, 11)?,
        headers: get(row, 12)?,
        payload: get(row, 13)?,
        route: get(row, 14)?,
        policy: get(row, 15)?,
        settled_by: get(row, 16)?,
        key_id: get(row, 17)?,
        caller: get(row, 18)?,
    })
}

/// In one transaction, which ends with it.
pub(in crate::ledger) struct Import(Session);

impl Import {
    pub(in crate::ledger) fn into(config: &PostgresConfig) -> Result<Self, CareError> {
        let session = Session::open(config, config.create)?;
        let living: i64 = session.ask(LIVING, &[])?.first().map_or(Ok(0), |row| get(row, 0))?;
        if living > 0 {
            return Err(CareError::InUse(living));
        }
        session.command("BEGIN")?;
        Ok(Import(session))
    }
}

impl Target for Import {
    fn name(&self) -> String {
        "the database".to_owned()
    }

    fn put(&mut self, lines: &[(u64, Line)]) -> Result<Result<u64, (u64, String)>, CareError> {
        let text = |of: fn(&Line) -> &str| lines.iter().map(|(_, line)| of(line)).collect::<Vec<_>>();
        let maybe = |of: fn(&Line) -> Option<&str>| lines.iter().map(|(_, line)| of(line)).collect::<Vec<_>>();
        let time = |text: &str| timestamp::parse(text);
        let claimed_at: Vec<_> = lines.iter().map(|(_, line)| time(&line.claimed_at)).collect();
        let settled_at: Vec<_> = lines.iter().map(|(_, line)| line.settled_at.as_deref().and_then(time)).collect();
        let status: Vec<_> = lines.iter().map(|(_, line)| line.status.map(i32::from)).collect();
        let ids = text(|line| &line.id);
        let new = self.0.ask(
            INSERT,
            &[
                (&ids, Type::TEXT_ARRAY),
                (&text(|line| &line.tenant), Type::TEXT_ARRAY),
                (&text(|line| &line.nonce), Type::TEXT_ARRAY),
                (&text(|line| &line.action), Type::TEXT_ARRAY),
                (&text(|line| &line.action_hash), Type::TEXT_ARRAY),
                (&text(|line| &line.state), Type::TEXT_ARRAY),
                (&claimed_at, Type::TIMESTAMPTZ_ARRAY),
                (&settled_at, Type::TIMESTAMPTZ_ARRAY),
                (&maybe(|line| line.approval_id.as_deref()), Type::TEXT_ARRAY),
                (&status, Type::INT4_ARRAY),
                (&maybe(|line| line.receipt.as_deref()), Type::TEXT_ARRAY),
                (&maybe(|line| line.result.as_deref()), Type::TEXT_ARRAY),
                (&maybe(|line| line.headers.as_deref()), Type::TEXT_ARRAY),
                (&maybe(|line| line.payload.as_deref()), Type::TEXT_ARRAY),
                (&maybe(|line| line.route.as_deref()), Type::TEXT_ARRAY),
                (&maybe(|line| line.policy.as_deref()), Type::TEXT_ARRAY),
                (&maybe(|line| line.settled_by.as_deref()), Type::TEXT_ARRAY),
                (&maybe(|line| line.key_id.as_deref()), Type::TEXT_ARRAY),
                (&maybe(|line| line.caller.as_deref()), Type::TEXT_ARRAY),
            ],
        )?;
        if new.len() < lines.len() {
            let known = self.0.ask(KNOWN, &[(&ids, Type::TEXT_ARRAY)])?;
            let known = known.iter().map(line).collect::<Result<Vec<_>, _>>()?;
            for (number, line) in lines {
                if !known.iter().any(|known| known.is_same(line)) {
                    return Ok(Err((*number, line.id.clone())));
                }
            }
        }
        Ok(Ok(new.len() as u64))
    }

    fn finish(
        self: Box<Self>,
        served_clawshield: bool,
        fence: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, CareError> {
        let rows = self.0.ask(FINISH, &[(&fence, Type::TIMESTAMPTZ), (&served_clawshield, Type::BOOL)])?;
        let fence = rows.first().map_or(Ok(None), |row| get(row, 0))?;
        self.0.command("COMMIT")?;
        Ok(fence)
    }
}

const INSERT: &str = "
INSERT INTO openexec_executions
    (id, tenant, nonce, action, action_hash, state, claimed_at, settled_at, approval_id, status, receipt, result, headers,
     payload, route, policy, settled_by, key_id, caller)
SELECT id, tenant, nonce, action, action_hash, state, claimed_at, settled_at, approval_id, status, receipt, result, headers,
       payload, route, policy, settled_by, key_id, caller
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
            $8::timestamptz[], $9::text[], $10::integer[], $11::text[], $12::text[], $13::text[], $14::text[],
            $15::text[], $16::text[], $17::text[], $18::text[], $19::text[]) WITH ORDINALITY
     AS new (id, tenant, nonce, action, action_hash, state, claimed_at, settled_at, approval_id, status, receipt, result,
             headers, payload, route, policy, settled_by, key_id, caller, place)
ORDER BY place
ON CONFLICT DO NOTHING
RETURNING seq";

/// The columns of [`line`], of which only those that identify it are needed.
const KNOWN: &str = "
SELECT id, tenant, nonce, action, action_hash, state, claimed_at, settled_at, approval_id, status, receipt,
       NULL::text, headers, NULL::text, route, policy, settled_by, key_id, caller
FROM openexec_executions WHERE id = ANY ($1)";

const FINISH: &str = "
UPDATE openexec_meta SET fence = GREATEST(fence, $1), served_clawshield = served_clawshield OR $2 RETURNING fence";
