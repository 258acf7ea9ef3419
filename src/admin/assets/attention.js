// What somebody should look at, the worst first. Pure: what is known goes in, sentences come out.

import { groupBy } from "./metrics.js";
import { printable, span } from "./text.js";
import { LIMITS, REASONS, amountOf } from "./words.js";

const DAY = 86_400_000;
/** Before a key or a certificate ends. */
const SOON = 14 * DAY;

/** `[{level: "bad" | "unknown" | "warn" | "note", text, href}]` */
export function attention({ looks, reasons, status }, now = Date.now()) {
    const series = looks.last;
    const found = [
        ...reasons.map((reason) => bad(`Not ready: ${REASONS[reason] ?? printable(reason)}`)),
        ...unknown(series),
        ...bypass(series, reasons),
        ...limits(series),
        ...upstreams(series),
        ...ledger(looks),
        ...configuration(series, status),
        ...(status?.keys ? keys(status.keys, now) : []),
        ...(status?.certificates ?? []).flatMap((certificate) => certificates(certificate, now)),
    ];
    return found.sort((a, b) => ORDER.indexOf(a.level) - ORDER.indexOf(b.level));
}

const ORDER = ["bad", "unknown", "warn", "note"];
const bad = (text, href) => ({ level: "bad", text, href });
const warn = (text, href) => ({ level: "warn", text, href });
const note = (text, href) => ({ level: "note", text, href });

function unknown(series) {
    const count = series.get("openexec_unknown_executions");
    if (count === 0) {
        return [];
    }
    const what = count === 1 ? "1 execution has an unknown outcome" : `${count} executions have an unknown outcome`;
    return [{ level: "unknown", text: `${what}: nobody knows what came of it`, href: "#/executions?state=UNKNOWN" }];
}

function bypass(series, reasons) {
    const isNew = series.get("openexec_bypass_found") > 0 && !reasons.includes("bypass_found");
    return isNew ? [bad("Bypass found: the service behind the gate answers past it")] : [];
}

function limits(series) {
    return LIMITS.flatMap(({ name, metric, unit }) => {
        const [taken, limit] = [series.get(metric), series.get(`${metric}_limit`)];
        const share = limit > 0 ? taken / limit : 0;
        const text = `Near a limit: ${name}, ${amountOf(taken, unit)} of ${amountOf(limit, unit)}`;
        return share >= 0.9 ? [bad(text)] : share >= 0.7 ? [warn(text)] : [];
    });
}

function upstreams(series) {
    return [...series.by("openexec_upstream_addresses", "upstream").keys()].flatMap((upstream) => {
        const of = (which) => series.sum("openexec_upstream_addresses", { upstream, which });
        const [all, healthy] = [of("all"), of("healthy")];
        const name = `The service ${printable(upstream)}`;
        if (all === 0) {
            return [bad(`${name} has no known address`, "#/configuration")];
        }
        if (healthy === 0) {
            return [bad(`${name} is unhealthy, at ${all === 1 ? "its address" : `all ${all} addresses`}`)];
        }
        return healthy < all ? [warn(`${name} is healthy at ${healthy} of ${all} addresses`)] : [];
    });
}

function ledger(looks) {
    const since = looks.window()?.since;
    const found = [];
    if (since?.get("openexec_ledger_commit_failures_total") > 0) {
        found.push(bad("The ledger could not make some of its commits in the last 30 s"));
    }
    if (since?.get("openexec_denials_dropped_total") > 0) {
        found.push(warn("Refused requests are not remembered: too many at once, or no room"));
    }
    if (looks.last.get("openexec_ledger_local") > 0) {
        found.push(note("The ledger is local: it is gone with this process or its pod"));
    }
    return found;
}

function configuration(series, status) {
    const found = [];
    const isGood = "openexec_config_last_reload_successful";
    if ((series.has(isGood) && series.get(isGood) === 0) || status?.reload_ok === false) {
        const text = "The configuration that was read last was refused, and the one before is in use: see the log";
        found.push(bad(text, "#/configuration"));
    }
    if (status?.mode === "demo") {
        found.push(note("Demo mode: everything is approved", "#/configuration"));
    }
    return found;
}

function keys(all, now) {
    const found = [];
    for (const [tenant, of] of groupBy(all, (key) => key.tenant)) {
        const active = of.filter((key) => key.state === "active");
        if (active.length === 0) {
            found.push(
                bad(`The tenant ${printable(tenant)} has no active key: nothing is approved for it`, "#/configuration"),
            );
            continue;
        }
        // One that has a successor may end.
        const last = Math.max(...active.map((key) => (key.not_after ? Date.parse(key.not_after) : Infinity)));
        if (last - now < SOON) {
            found.push(
                warn(`The last key of tenant ${printable(tenant)} ends in ${span(last - now)}`, "#/configuration"),
            );
        }
    }
    return found;
}

function certificates(certificate, now) {
    const left = Date.parse(certificate.not_after) - now;
    const name = `The certificate of ${certificate.of} ${printable(certificate.name)}`;
    if (left <= 0) {
        return [bad(`${name} ended ${span(left)} ago`, "#/configuration")];
    }
    return left < SOON ? [warn(`${name} ends in ${span(left)}`, "#/configuration")] : [];
}
