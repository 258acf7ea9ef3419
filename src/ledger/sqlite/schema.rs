//! The tables. A person opens them with `sqlite3 -readonly openexec.db` and can read them: plain columns, times in
//! ISO 8601, results as text.

/// `PRAGMA application_id`: "OPEX".
pub(super) const APPLICATION_ID: i32 = 0x4f50_4558;
/// `PRAGMA user_version`: a newer one is refused.
pub(super) const SCHEMA_VERSION: i32 = 5;

/// Authentic requests that were refused.
macro_rules! denials {
    () => {
        "
CREATE TABLE denials (
    seq         INTEGER PRIMARY KEY,
    denied_at   TEXT NOT NULL,
    tenant      TEXT NOT NULL,
    reason      TEXT NOT NULL,
    action      TEXT NOT NULL,
    action_hash TEXT NOT NULL,
    nonce       TEXT NOT NULL,
    approval_id TEXT,
    key_id      TEXT,
    caller      TEXT
) STRICT;

CREATE INDEX denials_tenant ON denials (tenant, seq);
"
    };
}

/// Results that came after the claim. The others are there from the first moment, so they are forgotten in the order of
/// their executions, and one number says how far ([`RESULTS_FORGOTTEN_TO`]): an entry for each cost a twentieth of all
/// executions.
macro_rules! late {
    () => {
        "
CREATE INDEX executions_late ON executions (seq)
    WHERE result IS NOT NULL AND (claim_token IS NOT NULL OR settled_at <> claimed_at);
"
    };
}

/// In `meta`: up to this `seq` no execution that was settled with its claim has its result. None: 0.
pub(super) const RESULTS_FORGOTTEN_TO: &str = "results_forgotten_to";

/// `OR` where `IN` would read better: SQLite builds a temporary table for each `IN` list at each insert.
pub(super) const CREATE: &str = concat!(
    "
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE executions (
    seq                INTEGER PRIMARY KEY,
    id                 TEXT NOT NULL,
    tenant             TEXT NOT NULL,
    nonce              TEXT NOT NULL,
    action             TEXT NOT NULL,
    action_hash        TEXT NOT NULL,
    state              TEXT NOT NULL
        CHECK (state = 'DONE' OR state = 'INTENT' OR state = 'NOT_EXECUTED' OR state = 'UNKNOWN'),
    claimed_at         TEXT NOT NULL,
    settled_at         TEXT,
    approval_id        TEXT,
    claim_token        INTEGER,
    payload            TEXT,
    status             INTEGER,
    receipt            TEXT,
    result             TEXT,
    route              TEXT,
    policy             TEXT,
    headers            TEXT,
    settled_by         TEXT,
    key_id             TEXT,
    caller             TEXT
) STRICT;

CREATE UNIQUE INDEX executions_id ON executions (id);
CREATE UNIQUE INDEX executions_nonce ON executions (tenant, nonce);
CREATE UNIQUE INDEX executions_approval ON executions (tenant, approval_id) WHERE approval_id IS NOT NULL;
CREATE INDEX executions_unsettled ON executions (seq) WHERE state = 'INTENT' OR state = 'UNKNOWN';
CREATE INDEX executions_not_executed ON executions (seq) WHERE state = 'NOT_EXECUTED';
",
    late!(),
    denials!()
);

/// From version 1, which knew built-in actions only.
pub(super) const MIGRATE_1: &str = "
ALTER TABLE executions ADD COLUMN route TEXT;
ALTER TABLE executions ADD COLUMN policy TEXT;
ALTER TABLE executions ADD COLUMN headers TEXT;
ALTER TABLE executions ADD COLUMN settled_by TEXT;
CREATE INDEX executions_not_executed ON executions (seq) WHERE state = 'NOT_EXECUTED';
UPDATE executions SET status = NULL WHERE state = 'DONE';
";

/// From version 2, which kept results for ever.
pub(super) const MIGRATE_2: &str = "CREATE INDEX executions_kept ON executions (seq) WHERE result IS NOT NULL;";

/// From version 3, which knew one key without a name, and no denials.
pub(super) const MIGRATE_3: &str = concat!(
    "
ALTER TABLE executions ADD COLUMN key_id TEXT;
ALTER TABLE executions ADD COLUMN caller TEXT;

",
    denials!()
);

/// From version 4, which had an index entry for each result.
pub(super) const MIGRATE_4: &str = concat!(
    "
INSERT INTO meta
SELECT 'results_forgotten_to', coalesce(
    (SELECT min(seq) - 1 FROM executions WHERE result IS NOT NULL), (SELECT max(seq) FROM executions), 0);
DROP INDEX executions_kept;
",
    late!()
);

/// Conflicts are no error: the caller finds out which it was.
pub(super) const CLAIM: &str = "
INSERT INTO executions (id, tenant, nonce, action, action_hash, state, claimed_at, settled_at,
                        approval_id, claim_token, payload, receipt, result, route, policy, key_id, caller)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
ON CONFLICT DO NOTHING";

pub(super) const LOOK_UP: &str = "
SELECT id, action, action_hash, state, status, receipt, result, headers, key_id FROM executions
WHERE tenant = ?1 AND nonce = ?2";

pub(super) const BY_ID: &str = "
SELECT id, action, action_hash, state, status, receipt, result, headers, key_id FROM executions WHERE id = ?1";

/// The compare-and-set: nobody settles what another settled. The payload goes when it is no longer needed. Without
/// RETURNING, for which SQLite builds a temporary table each time.
pub(super) const SETTLE: &str = "
UPDATE executions SET state = ?3, settled_at = ?4, status = ?5, receipt = ?6, result = ?7, headers = ?8,
                      payload = CASE ?3 WHEN 'UNKNOWN' THEN payload END
WHERE seq = ?1 AND claim_token = ?2 AND (state = 'INTENT' OR (state = 'UNKNOWN' AND ?3 <> 'UNKNOWN'))";

/// As `SETTLE`, for whoever has no claim.
pub(super) const RESOLVE: &str = "
UPDATE executions SET state = ?3, settled_at = ?4, status = ?5, receipt = ?6, result = ?7, headers = ?8,
                      payload = NULL, settled_by = ?2
WHERE id = ?1 AND state = 'UNKNOWN' AND ?3 <> 'UNKNOWN'";

/// The columns of [`row::record`](super::row::record).
macro_rules! record {
    ($payload:literal, $result:literal, $rest:literal) => {
        concat!(
            "SELECT id, action, action_hash, state, status, receipt, ",
            $result,
            ", headers, key_id, seq, tenant, nonce, approval_id, claimed_at, settled_at, settled_by, ",
            $payload,
            ", route, policy, caller FROM executions ",
            $rest
        )
    };
}

pub(super) const FIND: &str = record!("payload", "result", "WHERE id = ?1");

pub(super) const LIST: &str = record!(
    "NULL",
    "CASE WHEN result IS NOT NULL THEN '' END",
    "WHERE seq < CASE WHEN ?1 IS NULL THEN 9223372036854775807 ELSE (SELECT seq FROM executions WHERE id = ?1) END \
     ORDER BY seq DESC LIMIT ?2"
);

pub(super) const LIST_DONE: &str = record!(
    "NULL",
    "CASE WHEN result IS NOT NULL THEN '' END",
    "WHERE seq < CASE WHEN ?1 IS NULL THEN 9223372036854775807 ELSE (SELECT seq FROM executions WHERE id = ?1) END AND state = ?3 \
     ORDER BY seq DESC LIMIT ?2"
);

/// Few among many, by their own index.
pub(super) const LIST_NOT_EXECUTED: &str = record!(
    "NULL",
    "CASE WHEN result IS NOT NULL THEN '' END",
    "WHERE seq < CASE WHEN ?1 IS NULL THEN 9223372036854775807 ELSE (SELECT seq FROM executions WHERE id = ?1) END \
     AND state = 'NOT_EXECUTED' AND state = ?3 ORDER BY seq DESC LIMIT ?2"
);

/// Finds them by the partial index, however large the table is.
pub(super) const LIST_UNSETTLED: &str = record!(
    "NULL",
    "CASE WHEN result IS NOT NULL THEN '' END",
    "WHERE seq < CASE WHEN ?1 IS NULL THEN 9223372036854775807 ELSE (SELECT seq FROM executions WHERE id = ?1) END \
     AND (state = 'INTENT' OR state = 'UNKNOWN') AND state = ?3 ORDER BY seq DESC LIMIT ?2"
);

pub(super) const RECOVERABLE: &str = "
SELECT seq, id, action FROM executions
WHERE seq > ?1 AND (state = 'INTENT' OR state = 'UNKNOWN') AND state = 'UNKNOWN' AND policy <> 'operator'
ORDER BY seq LIMIT ?2";

pub(super) const COUNT_UNKNOWN: &str =
    "SELECT count(*) FROM executions WHERE (state = 'INTENT' OR state = 'UNKNOWN') AND state = 'UNKNOWN'";

/// Results that were there with their claim, of some executions in their order.
pub(super) const KEPT: &str = "
SELECT seq, tenant, nonce, claimed_at, settled_at, octet_length(result) FROM executions
WHERE seq > ?1 AND seq <= ?2 AND result IS NOT NULL AND claim_token IS NULL AND settled_at = claimed_at ORDER BY seq";

/// All the other results, by their own index.
pub(super) const KEPT_LATE: &str = "
SELECT seq, tenant, nonce, claimed_at, settled_at, octet_length(result) FROM executions
WHERE result IS NOT NULL AND (claim_token IS NOT NULL OR settled_at <> claimed_at) ORDER BY seq";

/// Executions in their order. What is unknown is never forgotten, however old it is.
pub(super) const OLDEST: &str = "
SELECT seq, tenant, nonce, claimed_at, settled_at, 0 FROM executions
WHERE state = 'DONE' OR state = 'NOT_EXECUTED' ORDER BY seq";

/// What was found outside of the transaction is looked at again inside of it.
pub(super) const FORGET_RESULT: &str = "
UPDATE executions SET result = NULL, headers = NULL
WHERE seq = ?1 AND state = 'DONE' AND result IS NOT NULL AND settled_at < ?2";

pub(super) const FORGET_EXECUTION: &str = "
DELETE FROM executions
WHERE seq = ?1 AND (state = 'DONE' OR state = 'NOT_EXECUTED') AND settled_at < ?2
  AND seq < (SELECT max(seq) FROM executions)";

pub(super) const DENY: &str = "
INSERT INTO denials (denied_at, tenant, reason, action, action_hash, nonce, approval_id, key_id, caller)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

pub(super) const COUNT_DENIALS: &str = "SELECT count(*) FROM denials WHERE tenant = ?1";

/// So many of the tenant's oldest.
pub(super) const FORGET_DENIALS: &str = "
DELETE FROM denials WHERE seq IN (SELECT seq FROM denials WHERE tenant = ?1 ORDER BY seq LIMIT ?2)";

pub(super) const DENIALS: &str = "
SELECT seq, denied_at, tenant, reason, action, action_hash, nonce, approval_id, key_id, caller FROM denials
WHERE seq < COALESCE(?1, 9223372036854775807) ORDER BY seq DESC LIMIT ?2";

pub(super) const DENIALS_OF_TENANT: &str = "
SELECT seq, denied_at, tenant, reason, action, action_hash, nonce, approval_id, key_id, caller FROM denials
WHERE seq < COALESCE(?1, 9223372036854775807) AND tenant = ?3 ORDER BY seq DESC LIMIT ?2";

/// Writes without a change: whether it can be written.
pub(super) const PROBE: &str = "UPDATE meta SET value = value WHERE key = 'ledger_id'";

/// What an earlier process left: whether it happened cannot be known. It ended at some time before now.
pub(super) const ABANDON: &str = "UPDATE executions SET state = 'UNKNOWN', settled_at = ?1 WHERE state = 'INTENT'";
