// What the server is, what it does for whom, and how old its keys, certificates and configuration are.

import { el, show } from "./dom.js";
import { card, empty, facts, foreign, mono, row, table, time } from "./parts.js";
import { ago, bytes, grouped, printable, span } from "./text.js";

export function configuration() {
    const body = el("div", { class: "cards" }, empty("Asking …"));
    const element = el("div", {}, el("h1", {}, "Configuration"), body);
    let known = "";
    return {
        title: "Configuration",
        element,
        enter() {},
        update({ status, looks }) {
            if (!status) {
                return;
            }
            // Ages are minutes at least: what is read and selected is left in peace for one.
            const version = JSON.stringify([status, Math.floor(Date.now() / 60_000)]);
            if (version !== known) {
                known = version;
                show(body, whole(status, looks.last));
            }
        },
    };
}

function whole(status, series) {
    return [
        server(status),
        limits(status.limits ?? {}),
        keys(status.keys ?? [], status.mode, series),
        certificates(status.certificates ?? []),
        actions(status.actions ?? []),
        services(status.upstreams ?? [], series),
    ];
}

function server(status) {
    const { ledger = {} } = status;
    const reload =
        status.reload_ok === false
            ? level("bad", "✕ the last one was refused: this one stays in use; see the log")
            : level("good", "✓ the one that was read last");
    return card(
        "Server",
        facts(
            ["Version", foreign(status.version)],
            ["Mode", status.mode === "demo" ? level("warn", "! demo: everything is approved") : foreign(status.mode)],
            status.started_at && ["Started", time(status.started_at, true)],
            status.configured_at && ["Configured", time(status.configured_at, true)],
            ["Configuration", reload],
            [
                "Ledger",
                foreign(ledger.kind),
                ledger.local ? level("warn", " ! gone with this process or its pod") : null,
            ],
            ["Listens on", list(status.listen ?? [])],
            status.admin_listen && ["Admin listener", mono(status.admin_listen)],
        ),
    );
}

function keys(all, mode, series) {
    if (all.length === 0) {
        const means = mode === "demo" ? "demo mode approves everything" : "every request is refused";
        return card("Keys", el("p", { class: "quiet" }, `None: ${means}`));
    }
    const { element, body } = table("Keys", ["Tenant", "Key", "State", "Until", "Age", "Approvals", "Fingerprint"]);
    const order = ["active", "not begun", "retired"];
    const sorted = [...all].sort(
        (a, b) => a.tenant.localeCompare(b.tenant) || order.indexOf(a.state) - order.indexOf(b.state),
    );
    body.append(
        ...sorted.map((key) => {
            const state = { active: ["good", "✓"], retired: ["quiet", "■"], "not begun": ["warn", "…"] }[key.state] ?? [
                "",
                "",
            ];
            return row({
                Tenant: foreign(key.tenant),
                Key: [foreign(key.key ?? "without a name"), " ", el("span", { class: "quiet" }, printable(key.form))],
                State: level(state[0], `${state[1]} ${printable(key.state)}`),
                Until: until(key.not_after, key.state === "active"),
                Age: key.not_before ? el("span", { title: key.not_before }, begun(key.not_before)) : "–",
                Approvals: grouped(series.sum("openexec_approvals_total", { tenant: key.tenant, key: key.key ?? "" })),
                Fingerprint: el("span", { class: "cut", title: printable(key.fingerprint) }, mono(key.fingerprint)),
            });
        }),
    );
    return card("Keys", element);
}

function begun(text) {
    const passed = Date.now() - Date.parse(text);
    return passed >= 0 ? span(passed) : `in ${span(passed)}`;
}

/** When something ends; loud where that is soon. */
function until(text, isLoud) {
    if (!text) {
        return "–";
    }
    const left = Date.parse(text) - Date.now();
    const words = left > 0 ? `in ${span(left)}` : ago(Date.parse(text));
    const [loudness, sign] = !isLoud
        ? ["quiet", ""]
        : left <= 0
          ? ["bad", "✕ "]
          : left < 14 * 86_400_000
            ? ["warn", "! "]
            : ["", ""];
    return [time(text), " ", level(loudness, `${sign}${words}`)];
}

function certificates(all) {
    if (all.length === 0) {
        return card("Certificates", el("p", { class: "quiet" }, "None: no listener and no service has one of ours"));
    }
    const { element, body } = table("Certificates", ["Of", "Name", "Ends"]);
    body.append(
        ...all.map((one) => row({ Of: foreign(one.of), Name: mono(one.name), Ends: until(one.not_after, true) })),
    );
    return card("Certificates", element);
}

function actions(all) {
    if (all.length === 0) {
        return card("Actions", el("p", { class: "quiet" }, "None"));
    }
    const { element, body } = table("Actions", ["Action", "Done by", "Recovery"]);
    body.append(
        ...all.map((one) =>
            row({
                Action: el("a", { href: `#/executions?action=${encodeURIComponent(one.name)}` }, foreign(one.name)),
                "Done by": one.upstream ? foreign(one.upstream) : el("span", { class: "quiet" }, "the gate itself"),
                Recovery: foreign(one.recovery),
            }),
        ),
    );
    return card("Actions", element);
}

function services(all, series) {
    if (all.length === 0) {
        return card("Services", el("p", { class: "quiet" }, "None: built-in actions only"));
    }
    const { element, body } = table("Services", ["Service", "Healthy", "Addresses"]);
    body.append(
        ...all.map((one) => {
            const of = (which) => series.sum("openexec_upstream_addresses", { upstream: one.name, which });
            return row({
                Service: foreign(one.name),
                Healthy: `${of("healthy")} of ${of("all")}`,
                Addresses: list(one.addresses ?? []),
            });
        }),
    );
    return card("Services", element);
}

function limits(all) {
    const shown = ([name, value]) => [
        el("code", {}, printable(name)),
        typeof value === "number" && name.endsWith("bytes") && value >= 1_024 ? bytes(value) : printable(value),
    ];
    return card("Limits", facts(...Object.entries(all).map(shown)));
}

const level = (of, text) => el("span", { "data-level": of }, text);
const list = (all) =>
    el(
        "ul",
        { class: "plain" },
        all.map((one) => el("li", {}, mono(one))),
    );
