//! Every statement, each of them one round trip and one transaction.

/// The timeline of the server that runs the statement: a promoted standby has another one than its primary had.
macro_rules! timeline {
    () => {
        "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
    };
}

/// Whether a commit waits until another machine has it on its disk.
macro_rules! synchronous {
    () => {
        "(current_setting('synchronous_commit') IN ('on', 'remote_apply') AND current_setting('synchronous_standby_names') <> '')"
    };
}

/// The columns of [`row::execution`](super::row::execution).
macro_rules! execution {
    ($result:literal) => {
        concat!("e.id, e.action, e.action_hash, e.state, e.status, e.receipt, ", $result, ", e.headers, e.key_id")
    };
    () => {
        execution!("e.result")
    };
}

/// The columns of [`row::record`](super::row::record).
macro_rules! record {
    ($payload:literal, $result:literal) => {
        concat!(
            execution!($result),
            ", e.seq, e.tenant, e.nonce, e.approval_id, e.claimed_at, e.settled_at, e.settled_by, ",
            $payload,
            ", e.route, e.policy, e.caller"
        )
    };
}

macro_rules! is_unsettled {
    () => {
        "e.state IN ('INTENT', 'UNKNOWN')"
    };
}

/// See [`schema::CREATE`](super::schema::CREATE): it inserts, or says what is in its way.
pub(super) const CLAIM: &str = "
SELECT id, action, action_hash, state, status, receipt, result, headers, key_id, said, new_seq, token
FROM openexec_claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)";

macro_rules! confirm {
    ($($where:expr),*) => {
        concat!(
            "UPDATE openexec_executions e SET confirmations = confirmations + 1 WHERE e.seq = $1 AND e.claim_token = $2",
            $($where,)*
            " RETURNING ",
            execution!(),
            ", e.settled_by"
        )
    };
}

/// A write that changes nothing that anybody reads: what is acknowledged behind it is as durable as it is.
pub(super) const CONFIRM: &str = confirm!();

/// The same for a claim, which is as good as made here: only where it could be made.
pub(super) const CONFIRM_CLAIM: &str = confirm!(
    " AND (NOT $3 OR ",
    synchronous!(),
    ") AND EXISTS (SELECT 1 FROM openexec_meta WHERE timeline = ",
    timeline!(),
    ")"
);

pub(super) const LOOK_UP: &str =
    concat!("SELECT ", execution!(), " FROM openexec_executions e WHERE e.tenant = $1 AND e.nonce = $2");

/// The compare-and-set: nobody settles what another settled. That nothing was sent is no news of an execution that
/// somebody else may be trying again by now.
pub(super) const SETTLE: &str = "
UPDATE openexec_executions
SET state = $3, settled_at = $4, status = $5, receipt = $6, result = $7, headers = $8,
    payload = CASE $3 WHEN 'UNKNOWN' THEN payload END
WHERE seq = $1 AND claim_token = $2
  AND (state = 'INTENT' OR (state = 'UNKNOWN' AND ($3 = 'DONE' OR ($3 = 'NOT_EXECUTED' AND policy = 'operator'))))
RETURNING seq";

/// As `SETTLE`, for whoever has no claim; not while another replica tries to find out.
pub(super) const RESOLVE: &str = concat!(
    "UPDATE openexec_executions e
     SET state = $3, settled_at = $4, status = $5, receipt = $6, result = $7, headers = $8, payload = NULL,
         settled_by = $2, settler = NULL
     WHERE e.id = $1 AND e.state = 'UNKNOWN' AND $3 <> 'UNKNOWN'
       AND (e.settler IS NULL OR e.settler = $9 OR NOT EXISTS (SELECT 1 FROM openexec_replicas r WHERE r.id = e.settler))
     RETURNING ",
    execution!(),
    ", e.seq, e.claim_token"
);

/// Of replicas that live, one at a time finds out about an unknown outcome.
pub(super) const TAKE_TURN: &str = "
UPDATE openexec_executions e SET settler = $2
WHERE e.id = $1 AND e.state = 'UNKNOWN'
  AND EXISTS (SELECT 1 FROM openexec_replicas r WHERE r.id = $2)
  AND (e.settler IS NULL OR e.settler = $2 OR NOT EXISTS (SELECT 1 FROM openexec_replicas r WHERE r.id = e.settler))
RETURNING e.seq";

pub(super) const END_TURN: &str =
    "UPDATE openexec_executions SET settler = NULL WHERE id = $1 AND settler = $2 AND state = 'UNKNOWN' RETURNING seq";

/// Claims of which nobody knew whether they were stored, and which were given up: nothing was dispatched.
pub(super) const WITHDRAW: &str = "
DELETE FROM openexec_executions e USING unnest($1::text[], $2::text[], $3::bigint[]) AS given_up (tenant, nonce, token)
WHERE e.tenant = given_up.tenant AND e.nonce = given_up.nonce AND e.claim_token = given_up.token AND e.state = 'INTENT'
RETURNING e.seq";

pub(super) const FIND: &str =
    concat!("SELECT ", record!("e.payload", "e.result"), " FROM openexec_executions e WHERE e.id = $1");

macro_rules! list {
    ($which:expr) => {
        concat!(
            "SELECT ",
            record!("NULL::text", "CASE WHEN e.result IS NOT NULL THEN '' END"),
            " FROM openexec_executions e
              WHERE e.seq < CASE WHEN $1::text IS NULL THEN 9223372036854775807
                                 ELSE (SELECT seq FROM openexec_executions WHERE id = $1) END AND ",
            $which,
            " ORDER BY e.seq DESC LIMIT $2"
        )
    };
}

pub(super) const LIST: &str = list!("true");
pub(super) const LIST_DONE: &str = list!("e.state = 'DONE'");
pub(super) const LIST_NOT_EXECUTED: &str = list!("e.state = 'NOT_EXECUTED'");
pub(super) const LIST_INTENT: &str = list!(concat!(is_unsettled!(), " AND e.state = 'INTENT'"));
pub(super) const LIST_UNKNOWN: &str = list!(concat!(is_unsettled!(), " AND e.state = 'UNKNOWN'"));

pub(super) const RECOVERABLE: &str = concat!(
    "SELECT e.seq, e.id, e.action FROM openexec_executions e WHERE e.seq > $1 AND ",
    is_unsettled!(),
    " AND e.state = 'UNKNOWN' AND e.policy <> 'operator' ORDER BY e.seq LIMIT $2"
);

pub(super) const COUNT_UNKNOWN: &str =
    concat!("SELECT count(*) FROM openexec_executions e WHERE ", is_unsettled!(), " AND e.state = 'UNKNOWN'");

pub(super) const DENY: &str = "
INSERT INTO openexec_denials (denied_at, tenant, reason, action, action_hash, nonce, approval_id, key_id, caller)
SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                     $8::text[], $9::text[])
RETURNING seq";

/// All of the tenant's but so many of the newest.
pub(super) const FORGET_DENIALS: &str = "
DELETE FROM openexec_denials WHERE tenant = $1
  AND seq <= (SELECT seq FROM openexec_denials WHERE tenant = $1 ORDER BY seq DESC OFFSET $2 LIMIT 1)
RETURNING seq";

pub(super) const DENIALS: &str = "
SELECT seq, denied_at, tenant, reason, action, action_hash, nonce, approval_id, key_id, caller FROM openexec_denials
WHERE seq < COALESCE($1, 9223372036854775807) AND $3::text IS NULL ORDER BY seq DESC LIMIT $2";

pub(super) const DENIALS_OF_TENANT: &str = "
SELECT seq, denied_at, tenant, reason, action, action_hash, nonce, approval_id, key_id, caller FROM openexec_denials
WHERE seq < COALESCE($1, 9223372036854775807) AND tenant = $3 ORDER BY seq DESC LIMIT $2";

/// So many of the oldest results, and so many bytes, but one at least. Whoever forgets the same at the same time is
/// passed by.
pub(super) const FORGET_RESULTS: &str = "
WITH old AS (
    SELECT seq, octet_length(result) AS bytes, sum(octet_length(result)) OVER (ORDER BY settled_at, seq) AS bytes_with
    FROM (SELECT seq, settled_at, result FROM openexec_executions
          WHERE result IS NOT NULL AND settled_at < $1 ORDER BY settled_at LIMIT $2 FOR UPDATE SKIP LOCKED) found
)
UPDATE openexec_executions e SET result = NULL, headers = NULL FROM old
WHERE e.seq = old.seq AND old.bytes_with - old.bytes <= $3 AND e.state = 'DONE'
RETURNING e.tenant, e.nonce, old.bytes_with > $3";

/// The fence is raised for what may be forgotten later. A claim that began before it was raised has ended by the time that
/// anything is forgotten behind it.
pub(super) const RAISE_FOR_RETENTION: &str = "
UPDATE openexec_meta
SET forgettable = fence - make_interval(secs => $2), fence = GREATEST(fence, $1), fence_raised_at = now()
WHERE fence_raised_at IS NULL OR fence_raised_at < now() - make_interval(secs => $3)
RETURNING fence";

/// Rows in the order of their claims; what is not settled is passed by, and the newest row stays.
pub(super) const FORGET_EXECUTIONS: &str = "
WITH old AS (
    SELECT seq FROM (SELECT seq, state, claimed_at, settled_at FROM openexec_executions ORDER BY seq
        LIMIT $2 + (SELECT count(*) FROM openexec_executions WHERE state IN ('INTENT', 'UNKNOWN'))) page
    WHERE state IN ('DONE', 'NOT_EXECUTED') AND GREATEST(claimed_at, settled_at) < $1
      -- Not in a LEAST, which would pass a NULL by: without a fence nothing is forgotten.
      AND GREATEST(claimed_at, settled_at) < (SELECT forgettable FROM openexec_meta)
      AND seq < (SELECT max(seq) FROM openexec_executions)
    ORDER BY seq LIMIT $2
)
DELETE FROM openexec_executions e USING old WHERE e.seq = old.seq AND e.state IN ('DONE', 'NOT_EXECUTED')
RETURNING e.tenant, e.nonce, false";

/// What a server must be, to be a ledger.
pub(super) const FACTS: &str = concat!(
    "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding'),
            current_setting('default_transaction_isolation'), current_setting('synchronous_commit'), ",
    synchronous!(),
    ", current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on',
      current_setting('client_min_messages') IN ('error', 'fatal', 'panic'), current_setting('statement_timeout') = '0'"
);

/// A new replica. Its first lease may be used once this is stored.
pub(super) const REGISTER: &str = concat!(
    "INSERT INTO openexec_replicas (id, lease_until, registered_on, verified_on)
     VALUES ($1, now() + make_interval(secs => $2), ",
    timeline!(),
    ", ",
    timeline!(),
    ") ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, registered_on = excluded.registered_on,
        verified_on = excluded.verified_on
    RETURNING beat"
);

/// On a timeline that is not known it stays as a witness, who will never speak.
pub(super) const LEAVE: &str = concat!(
    "DELETE FROM openexec_replicas WHERE id = $1 AND EXISTS (SELECT 1 FROM openexec_meta WHERE timeline = ",
    timeline!(),
    ") RETURNING beat"
);

/// Renews the lease, and tells what has changed, and how many of these writes are there. On another timeline beats are not
/// counted: they are evidence there.
pub(super) const BEAT: &str = concat!(
    "WITH renewed AS (
        UPDATE openexec_replicas SET lease_until = now() + make_interval(secs => $2),
            beat = beat + (SELECT (timeline = ",
    timeline!(),
    ")::integer FROM openexec_meta)
        WHERE id = $1 RETURNING beat
    )
    SELECT renewed.beat, m.fence, m.timeline = ",
    timeline!(),
    ", m.synchronous, ",
    synchronous!(),
    ", current_setting('synchronous_commit') <> 'off', extract(epoch FROM now())::float8,
        m.cluster = (SELECT system_identifier::text FROM pg_control_system()), ",
    timeline!(),
    ", (SELECT count(*) FROM unnest($3::bigint[], $4::bigint[], $5::text[]) AS a (seq, token, state)
        JOIN openexec_executions e ON e.seq = a.seq AND e.claim_token = a.token
        WHERE a.state IN ('INTENT', e.state) OR (a.state = 'UNKNOWN' AND e.state <> 'INTENT'))
    FROM openexec_meta m LEFT JOIN renewed ON true"
);

/// Only on the timeline that is known: on another one it would be said of what may have been lost.
pub(super) const NOTE_SYNCHRONOUS: &str = concat!(
    "UPDATE openexec_meta SET synchronous = $1 WHERE synchronous <> $1 AND timeline = ",
    timeline!(),
    " RETURNING synchronous"
);

/// What replicas left that nobody hears of any more. On a timeline that is not known yet they are kept as witnesses.
pub(super) const BURY: &str = concat!(
    "DELETE FROM openexec_replicas WHERE lease_until < now() - make_interval(secs => $1)
       AND EXISTS (SELECT 1 FROM openexec_meta WHERE timeline = ",
    timeline!(),
    ") RETURNING id"
);

/// Also of a claim that was stored after its replica was buried.
pub(super) const ABANDON: &str = "
UPDATE openexec_executions e SET state = 'UNKNOWN', settled_at = now()
WHERE e.state IN ('INTENT', 'UNKNOWN') AND e.state = 'INTENT'
  AND NOT EXISTS (SELECT 1 FROM openexec_replicas r WHERE r.id = e.replica)
RETURNING e.seq";

pub(super) const WITNESS: &str =
    concat!("UPDATE openexec_replicas SET verified_on = ", timeline!(), " WHERE id = $1 RETURNING beat");

/// Nothing that was acknowledged is missing: commits waited for another machine, and every replica that was there then has
/// found its own, one at least.
pub(super) const CONCLUDE_WELL: &str = concat!(
    "UPDATE openexec_meta SET timeline = ",
    timeline!(),
    " WHERE timeline <> ",
    timeline!(),
    " AND synchronous
       AND NOT EXISTS (SELECT 1 FROM openexec_replicas WHERE verified_on <> ",
    timeline!(),
    ") AND EXISTS (SELECT 1 FROM openexec_replicas WHERE registered_on <> ",
    timeline!(),
    ") RETURNING fence"
);

/// Something may be missing.
pub(super) const CONCLUDE_BADLY: &str = concat!(
    "UPDATE openexec_meta SET fence = ",
    "GREATEST(fence, now() + make_interval(secs => $1), $2 + make_interval(secs => $1), ",
    "(SELECT claimed_at FROM openexec_executions ORDER BY seq DESC LIMIT 1) + make_interval(secs => $1)), timeline = ",
    timeline!(),
    " WHERE timeline <> ",
    timeline!(),
    " RETURNING fence"
);

/// Whatever was before.
pub(super) const RAISE: &str = "
UPDATE openexec_meta SET fence = GREATEST(fence, now() + make_interval(secs => $1), $2 + make_interval(secs => $1),
    (SELECT claimed_at FROM openexec_executions ORDER BY seq DESC LIMIT 1) + make_interval(secs => $1))
RETURNING fence";

/// Tables that were copied to another cluster: what happened at the first one since then is not in them.
pub(super) const MOVE_CLUSTER: &str = concat!(
    "UPDATE openexec_meta SET fence = GREATEST(fence, now() + make_interval(secs => $1), $2 + make_interval(secs => $1),
        (SELECT claimed_at FROM openexec_executions ORDER BY seq DESC LIMIT 1) + make_interval(secs => $1)),
        cluster = system_identifier::text, timeline = ",
    timeline!(),
    " FROM pg_control_system() WHERE cluster <> system_identifier::text RETURNING fence"
);

pub(super) const META: &str = "SELECT ledger_id::text, served_clawshield, fence FROM openexec_meta";

pub(super) const SERVES_CLAWSHIELD: &str =
    "UPDATE openexec_meta SET served_clawshield = true WHERE NOT served_clawshield RETURNING true";
