// The words of the gate, and what they mean.

import { bytes, grouped } from "./text.js";

export const VERDICTS = "openexec_verdicts_total";

/** As /readyz says them. */
export const REASONS = {
    shutting_down: "the server is stopping",
    not_configured: "the keys that ClawShield mode needs are not configured",
    ledger_waiting: "another process still has the ledger",
    ledger_checking: "the ledger is being checked",
    ledger_unavailable: "the ledger cannot be read or written",
    ledger_full: "the ledger's disk is full",
    ledger_disk_low: "the ledger's disk has too little room (ledger.min_free_bytes)",
    ledger_failover: "a new database server took over, and it is looked whether it has all that the old one had",
    ledger_not_synchronous: "commits do not wait for another machine (ledger.require_synchronous)",
    bypass_found: "the service behind the gate answers past it",
    bypass_unchecked: "nobody has looked yet whether the service answers past the gate",
};

/** States of an execution, what they mean, and a sign, so that colour is never all that tells them apart. */
export const STATES = {
    UNKNOWN: { sign: "?", means: "It was dispatched, and nobody knows what came of it" },
    INTENT: { sign: "…", means: "It is claimed, and runs now" },
    DONE: { sign: "✓", means: "A whole answer was read: retries get it" },
    NOT_EXECUTED: { sign: "✕", means: "It is certain that nothing happened, and that nothing will" },
};

/** Who finds out about an unknown outcome. */
export const RECOVERY = {
    operator: "operator: nobody, until somebody here says what happened",
    idempotent: "idempotent: the same request is sent again with the same key",
    probe: "probe: the service is asked what became of the key",
};

export const TIMES = [
    { name: "gate", metric: "openexec_enforcement_seconds", means: "reading, checking, answering" },
    { name: "ledger", metric: "openexec_ledger_seconds", means: "waiting for the ledger" },
    { name: "service", metric: "openexec_upstream_seconds", means: "waiting for what does the action" },
    { name: "commit", metric: "openexec_ledger_commit_seconds", means: "a commit of the ledger" },
];

export const LIMITS = [
    { name: "in flight", metric: "openexec_in_flight_executions", unit: "count" },
    { name: "connections", metric: "openexec_connections", unit: "count" },
    { name: "buffered", metric: "openexec_buffered_bytes", unit: "bytes" },
];

export const amountOf = (value, unit) => (unit === "bytes" ? bytes(value) : grouped(value));
