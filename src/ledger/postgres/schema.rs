//! The tables. A person opens them with psql and can read them: plain columns, times, results as text.
//!
//! All names begin with `openexec_`, in the schema that the role's `search_path` names first. Texts are compared byte by
//! byte, whatever the database's collation is.

/// A newer one is refused.
pub(super) const VERSION: i32 = 1;

/// From nothing to version 1.
pub(super) const CREATE: &str = r#"
CREATE TABLE openexec_meta (
    only_one           boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    version            integer NOT NULL,
    ledger_id          uuid NOT NULL,
    served_clawshield  boolean NOT NULL DEFAULT false,
    -- Approvals issued before it are refused.
    fence              timestamptz,
    -- When retention raised it last, and what it lay before: executions settled earlier may be forgotten.
    fence_raised_at    timestamptz,
    forgettable        timestamptz,
    -- The cluster, and its timeline, that are known to hold what was acknowledged.
    cluster            text NOT NULL,
    timeline           text NOT NULL,
    -- Whether commits waited for another machine when somebody looked last.
    synchronous        boolean NOT NULL DEFAULT false
);

CREATE TABLE openexec_replicas (
    id             uuid PRIMARY KEY,
    lease_until    timestamptz NOT NULL,
    beat           bigint NOT NULL DEFAULT 0,
    -- The timeline that it began on, and the last one of which it knows that nothing acknowledged to it is missing.
    registered_on  text NOT NULL,
    verified_on    text NOT NULL
);

CREATE TABLE openexec_executions (
    seq            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id             text COLLATE "C" NOT NULL,
    tenant         text COLLATE "C" NOT NULL,
    nonce          text COLLATE "C" NOT NULL,
    action         text NOT NULL,
    action_hash    text NOT NULL,
    state          text COLLATE "C" NOT NULL CHECK (state IN ('INTENT', 'DONE', 'NOT_EXECUTED', 'UNKNOWN')),
    claimed_at     timestamptz NOT NULL,
    settled_at     timestamptz,
    approval_id    text COLLATE "C",
    claim_token    bigint,
    confirmations  integer NOT NULL DEFAULT 0,
    replica        uuid,
    settler        uuid,
    payload        text,
    status         integer,
    receipt        text,
    result         text,
    route          text,
    policy         text,
    headers        text,
    settled_by     text,
    key_id         text,
    caller         text
);

CREATE UNIQUE INDEX openexec_executions_id ON openexec_executions (id);
CREATE UNIQUE INDEX openexec_executions_nonce ON openexec_executions (tenant, nonce);
CREATE UNIQUE INDEX openexec_executions_approval ON openexec_executions (tenant, approval_id)
    WHERE approval_id IS NOT NULL;
CREATE INDEX openexec_executions_unsettled ON openexec_executions (seq) WHERE state IN ('INTENT', 'UNKNOWN');
CREATE INDEX openexec_executions_not_executed ON openexec_executions (seq) WHERE state = 'NOT_EXECUTED';
CREATE INDEX openexec_executions_kept ON openexec_executions (settled_at) WHERE result IS NOT NULL;

CREATE TABLE openexec_denials (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    denied_at    timestamptz NOT NULL,
    tenant       text COLLATE "C" NOT NULL,
    reason       text NOT NULL,
    action       text NOT NULL,
    action_hash  text NOT NULL,
    nonce        text NOT NULL,
    approval_id  text,
    key_id       text,
    caller       text
);

CREATE INDEX openexec_denials_tenant ON openexec_denials (tenant, seq);

-- The claim, in one round trip: stores the execution, or says what is in its way. A function, because the plans of what it
-- does are kept by the server's process, whoever is connected to it: planned anew for each claim, they cost more than all
-- the rest. The server's timeline, the replica's registration, how durable a commit is and the fence are looked at in the
-- transaction that stores it. What was stored meanwhile is seen: each statement in it has a snapshot of its own.
CREATE FUNCTION openexec_claim(
    new_id text, new_tenant text, new_nonce text, new_action text, new_action_hash text, new_state text,
    new_claimed_at timestamptz, new_settled_at timestamptz, new_approval_id text, new_token bigint, new_payload text,
    new_receipt text, new_result text, new_route text, new_policy text, new_key_id text, new_caller text,
    new_replica uuid, new_issued_at timestamptz, must_be_synchronous boolean, heard_beat bigint,
    OUT said text, OUT new_seq bigint, OUT token bigint,
    OUT id text, OUT action text, OUT action_hash text, OUT state text, OUT status integer, OUT receipt text,
    OUT result text, OUT headers text, OUT key_id text
) LANGUAGE plpgsql
-- Its plans may be made while the tables are empty, where reading all of them looks cheap.
SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    known openexec_executions%ROWTYPE;
BEGIN
    SELECT CASE
        WHEN m.timeline <> substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) THEN 'failover'
        WHEN current_setting('synchronous_commit') = 'off' THEN 'not durable'
        WHEN must_be_synchronous AND NOT (current_setting('synchronous_commit') IN ('on', 'remote_apply')
            AND current_setting('synchronous_standby_names') <> '') THEN 'not durable'
        -- Nor is a server the right one that knows less of this replica than one has told it.
        WHEN NOT EXISTS (SELECT 1 FROM openexec_replicas r
                         WHERE r.id = new_replica AND r.lease_until > now() AND r.beat >= heard_beat)
            THEN 'not registered'
        WHEN new_issued_at < m.fence THEN 'behind the fence'
        ELSE 'stored'
    END INTO STRICT said FROM openexec_meta m;
    IF said = 'stored' THEN
        INSERT INTO openexec_executions
            (id, tenant, nonce, action, action_hash, state, claimed_at, settled_at, approval_id, claim_token, payload,
             receipt, result, route, policy, key_id, caller, replica)
        VALUES
            (new_id, new_tenant, new_nonce, new_action, new_action_hash, new_state, new_claimed_at, new_settled_at,
             new_approval_id, new_token, new_payload, new_receipt, new_result, new_route, new_policy, new_key_id,
             new_caller, new_replica)
        ON CONFLICT DO NOTHING
        RETURNING seq INTO new_seq;
        IF new_seq IS NOT NULL THEN
            RETURN;
        END IF;
        said := 'used';
    END IF;
    SELECT * INTO known FROM openexec_executions e WHERE e.tenant = new_tenant AND e.nonce = new_nonce;
    IF FOUND THEN
        said := 'known';
        new_seq := known.seq; token := known.claim_token; id := known.id; action := known.action;
        action_hash := known.action_hash; state := known.state; status := known.status; receipt := known.receipt;
        result := known.result; headers := known.headers; key_id := known.key_id;
    END IF;
END $$;

INSERT INTO openexec_meta (version, ledger_id, cluster, timeline)
SELECT 1, gen_random_uuid(), system_identifier::text, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
FROM pg_control_system();
"#;

/// One makes or changes the tables at a time.
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock(5715146836172694616)";

/// Whether there are tables. `to_regclass` would answer from a cache that does not know what another session, for whose lock
/// this one has waited, has just made.
pub(super) const FIND: &str = "
SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c
               WHERE c.relname = 'openexec_meta' AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid))";
/// An older OpenExec's need not have the other columns.
pub(super) const FOUND_VERSION: &str = "SELECT version FROM openexec_meta";
