//! Care for a ledger's file.

mod backup;
pub(in crate::ledger) mod legacy;
mod prune;

pub(in crate::ledger) use backup::backup;
pub(in crate::ledger) use prune::prune;

use chrono::{DateTime, TimeDelta, Utc};
use openexec_protocol::timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{OpenFile, file, meta, newest, raise_fence, schema, set_meta, stored_fence};
use crate::config::ledger::{FencePolicy, SqliteConfig};
use crate::ledger::Anchor;
use crate::ledger::care::line::Line;
use crate::ledger::care::{About, CareError, LISTED, Source, Target};

impl From<rusqlite::Error> for CareError {
    fn from(error: rusqlite::Error) -> Self {
        CareError::Open(error.into())
    }
}

/// See [`care::raise`](crate::ledger::care::raise).
pub(in crate::ledger) fn raise(config: &SqliteConfig, skew: TimeDelta) -> Result<DateTime<Utc>, CareError> {
    let config = SqliteConfig { create: false, fence: FencePolicy::Always, ..config.clone() };
    let OpenFile { connection, config, ledger_id, lock: _lock, .. } = OpenFile::open(config)?;
    let (last_seq, newest_row) = newest(&connection)?;
    let fence = raise_fence(&connection, &config, &ledger_id, false, last_seq, newest_row, skew)?;
    Ok(fence.expect("a ledger that is always fenced has a fence"))
}

/// See [`care::migrate`](crate::ledger::care::migrate).
pub(in crate::ledger) fn migrate(config: &SqliteConfig) -> Result<String, CareError> {
    OpenFile::open(config.clone())?;
    Ok(format!("the ledger {} has schema version {}", config.path.display(), schema::SCHEMA_VERSION))
}

/// One state of a ledger that is there, whoever uses it.
pub(in crate::ledger) struct Snapshot {
    connection: Connection,
    config: SqliteConfig,
}

impl Snapshot {
    pub(in crate::ledger) fn of(config: &SqliteConfig) -> Result<Self, CareError> {
        if !config.path.exists() || !file::recognise(&config.path)? {
            return Err(CareError::NoLedger(config.path.clone()));
        }
        let connection = file::connect_reader(&config.path)?;
        let version: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version < schema::SCHEMA_VERSION {
            return Err(CareError::Older(config.path.clone(), version));
        }
        connection.execute_batch("BEGIN")?;
        Ok(Snapshot { connection, config: config.clone() })
    }
}

impl Source for Snapshot {
    fn about(&mut self, thoroughly: bool) -> Result<About, CareError> {
        let connection = &self.connection;
        let mut problems = Vec::new();
        if thoroughly {
            let mut structure = connection.prepare(&format!("PRAGMA integrity_check({LISTED})"))?;
            for finding in structure.query_map([], |row| row.get::<_, String>(0))? {
                problems.push(finding?);
            }
            problems.retain(|finding| finding != "ok");
        }
        let ledger_id = meta(connection, "ledger_id")?.unwrap_or_default();
        let anchor = anchor(&self.config, &ledger_id, newest(connection)?.0);
        Ok(About {
            ledger_id,
            fence: stored_fence(connection)?,
            served_clawshield: meta(connection, "served_clawshield")?.as_deref() == Some("1"),
            more: vec![("anchor", anchor)],
            problems,
        })
    }

    fn each(&mut self, put: &mut dyn FnMut(Line) -> Result<(), CareError>) -> Result<(), CareError> {
        let mut select = self.connection.prepare(&format!("{SELECT} ORDER BY seq"))?;
        for line in select.query_map([], line)? {
            put(line?)?;
        }
        Ok(())
    }
}

/// An anchor that does not fit is no damage: the next start raises the fence.
fn anchor(config: &SqliteConfig, ledger_id: &str, last_seq: i64) -> String {
    let path = config.anchor.display();
    match Anchor::read(&config.anchor) {
        Ok(Some(anchor)) if anchor.ledger_id != ledger_id => {
            format!("{path} is another ledger's: a start raises the fence")
        }
        // A server that runs writes both, the anchor a little later.
        Ok(Some(anchor)) if anchor.last_seq > last_seq => {
            format!("{path} is ahead, the ledger was rolled back: a start raises the fence")
        }
        Ok(Some(_)) => format!("{path} fits"),
        Ok(None) => format!("{path} is not there: a start raises the fence"),
        Err(error) => format!("{path}: {error}: a start raises the fence"),
    }
}

/// In one transaction, which ends with it.
pub(in crate::ledger) struct Import {
    file: OpenFile,
}

impl Import {
    pub(in crate::ledger) fn into(config: &SqliteConfig) -> Result<Self, CareError> {
        let file = OpenFile::open(config.clone())?;
        file.connection.execute_batch("BEGIN IMMEDIATE")?;
        Ok(Import { file })
    }

    /// Whether it is new.
    fn put_one(&self, new: &Line) -> Result<bool, CareError> {
        let inserted = self.file.connection.prepare_cached(INSERT)?.execute(params![
            new.id,
            new.tenant,
            new.nonce,
            new.action,
            new.action_hash,
            new.state,
            new.claimed_at,
            new.settled_at,
            new.approval_id,
            new.status,
            new.receipt,
            new.result,
            new.headers,
            new.payload,
            new.route,
            new.policy,
            new.settled_by,
            new.key_id,
            new.caller,
        ])?;
        Ok(inserted == 1)
    }
}

impl Target for Import {
    fn name(&self) -> String {
        self.file.config.path.display().to_string()
    }

    fn put(&mut self, lines: &[(u64, Line)]) -> Result<Result<u64, (u64, String)>, CareError> {
        let mut new = 0;
        for (number, one) in lines {
            if self.put_one(one)? {
                new += 1;
                continue;
            }
            let mut select = self.file.connection.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
            let known = select.query_row([&one.id], line).optional()?;
            if !known.is_some_and(|known| known.is_same(one)) {
                return Ok(Err((*number, one.id.clone())));
            }
        }
        Ok(Ok(new))
    }

    fn finish(
        self: Box<Self>,
        served_clawshield: bool,
        fence: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, CareError> {
        let connection = &self.file.connection;
        let fence = stored_fence(connection)?.map_or(fence, |own| own.max(fence));
        set_meta(connection, "fence", &timestamp::print(fence))?;
        if served_clawshield {
            set_meta(connection, "served_clawshield", "1")?;
        }
        if self.file.was_clean {
            // The next start need not check a ledger that was made here.
            set_meta(connection, "clean", "1")?;
        }
        connection.execute_batch("COMMIT")?;
        Ok(Some(fence))
    }
}

/// In the order of [`line`].
const SELECT: &str = "
SELECT id, tenant, nonce, action, action_hash, state, claimed_at, settled_at, approval_id, status, receipt, result,
       headers, payload, route, policy, settled_by, key_id, caller
FROM executions";

const INSERT: &str = "
INSERT INTO executions (id, tenant, nonce, action, action_hash, state, claimed_at, settled_at, approval_id, status,
                        receipt, result, headers, payload, route, policy, settled_by, key_id, caller)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)
ON CONFLICT DO NOTHING";

fn line(row: &Row<'_>) -> rusqlite::Result<Line> {
    Ok(Line {
        id: row.get(0)?,
        tenant: row.get(1)?,
        nonce: row.get(2)?,
        action: row.get(3)?,
        action_hash: row.get(4)?,
        state: row.get(5)?,
        claimed_at: row.get(6)?,
        settled_at: row.get(7)?,
        approval_id: row.get(8)?,
        status: row.get(9)?,
        receipt: row.get(10)?,
        result: row.get(11)?,
        headers: row.get(12)?,
        payload: row.get(13)?,
        route: row.get(14)?,
        policy: row.get(15)?,
        settled_by: row.get(16)?,
        key_id: row.get(17)?,
        caller: row.get(18)?,
    })
}
