// What somebody sees first: is it ready, does something need me, what does it do, and whose time is it?

import { get } from "./api.js";
import { attention } from "./attention.js";
import { el, keep, say, show } from "./dom.js";
import { executionRow, executionTable } from "./rows.js";
import { card, empty, foreign, row, table, trouble } from "./parts.js";
import { Plot } from "./plot.js";
import { grouped, latency, rate } from "./text.js";
import { LIMITS, TIMES, VERDICTS, amountOf } from "./words.js";

const RECENT = 8;
/** Actions that are shown: those that were done most. */
const BUSIEST = 8;

export function overview() {
    const parts = [needs(), verdicts(), times(), limits(), actions(), recent()];
    const element = el(
        "div",
        { class: "overview" },
        el("h1", { class: "unseen" }, "Overview"),
        parts.map((p) => p.element),
    );
    return {
        title: "Overview",
        element,
        enter() {},
        update: (state) => Promise.all(parts.map((part) => part.update(state))),
    };
}

function needs() {
    const list = el("ul", { class: "needs" });
    const element = el("section", { "aria-label": "What needs attention" }, list);
    const item = ({ level, text, href }) =>
        el(
            "li",
            { "data-level": level },
            el(
                "span",
                { class: "sign", "aria-hidden": "true" },
                { bad: "✕", unknown: "?", warn: "!", note: "i", good: "✓" }[level],
            ),
            el("span", {}, text),
            href && el("a", { href, "aria-label": `Look: ${text}` }, "Look"),
        );
    return {
        element,
        update(state) {
            const found = state.looks.isEmpty ? [] : attention(state);
            const calm = found.every((one) => one.level === "note") && !state.looks.isEmpty;
            keep(
                list,
                calm ? [{ level: "good", text: "Ready, and nothing needs you" }, ...found] : found,
                (one) => one.text,
                item,
            );
        },
    };
}

function verdicts() {
    const kinds = ["executed", "replayed", "refused"].map((verdict) => {
        const count = (since) => since.sum(VERDICTS, { verdict });
        const plot = new Plot(`${verdict} per second`, (value) => (value === null ? "–" : `${rate(value)}/s`), 1);
        const number = el("p", { class: "number" }, "–");
        const note = el("p", { class: "quiet reasons" });
        const element = el(
            "div",
            { class: "verdict", "data-verdict": verdict },
            el("h3", {}, verdict),
            number,
            note,
            plot.element,
        );
        return { verdict, count, plot, number, note, element };
    });
    const notes = { executed: "done now, for the first time", replayed: "answered from the ledger" };
    return {
        element: card(
            "Verdicts per second",
            el(
                "div",
                { class: "verdicts" },
                kinds.map((kind) => kind.element),
            ),
        ),
        update({ looks }) {
            const window = looks.window();
            for (const { verdict, count, plot, number, note } of kinds) {
                say(number, rate(window && count(window.since) / window.seconds));
                say(note, notes[verdict] ?? (window ? refusals(window.since) : ""));
                plot.draw(
                    looks.history((since, seconds) => count(since) / seconds),
                    performance.now(),
                );
            }
        },
    };
}

/** The reasons that were met most. */
function refusals(since) {
    const met = [...since.by(VERDICTS, "reason")].filter(([reason, count]) => reason !== "" && count > 0);
    const most = met.sort(([, a], [, b]) => b - a).slice(0, 2);
    return most.length > 0 ? most.map(([reason]) => reason).join(", ") : "nothing in the last 30 s";
}

function times() {
    const rows = TIMES.map(({ name, metric, means }) => {
        const plot = new Plot(`${name}: p99, and p50 thinner`, latency, 1e-4);
        const cells = [0.5, 0.95, 0.99].map((quantile) => ({ quantile, cell: el("td", { class: "figure" }, "–") }));
        const head = el("th", { scope: "row" }, name, el("span", { class: "quiet" }, means));
        const element = el(
            "tr",
            {},
            head,
            cells.map(({ cell }) => cell),
            el("td", { class: "drawn" }, plot.element),
        );
        return { metric, plot, cells, element };
    });
    const heads = ["Whose", "p50", "p95", "p99", "p99 over time"].map((head) => el("th", { scope: "col" }, head));
    const element = card(
        "Time of an execution",
        el(
            "table",
            { class: "times" },
            el("caption", { class: "unseen" }, "Quantiles of the last 30 s"),
            el("thead", {}, el("tr", {}, heads)),
            el(
                "tbody",
                {},
                rows.map((row) => row.element),
            ),
        ),
    );
    element.classList.add("times-card");
    return {
        element,
        update({ looks }) {
            const since = looks.window()?.since;
            for (const { metric, plot, cells } of rows) {
                for (const { quantile, cell } of cells) {
                    say(cell, latency(since?.quantile(metric, quantile)));
                }
                const history = (quantile) => looks.history((step) => step.quantile(metric, quantile));
                plot.draw(history(0.99), performance.now(), history(0.5));
            }
        },
    };
}

/** What is taken of what there may be, and which services answer. */
function limits() {
    const bars = LIMITS.map(({ name, metric, unit }) => {
        const text = el("span", { class: "figure" }, "–");
        const fill = el("span", { class: "fill" });
        const element = el(
            "li",
            {},
            el("span", {}, name),
            text,
            el("span", { class: "meter", "aria-hidden": "true" }, fill),
        );
        return { metric, unit, text, fill, element };
    });
    const services = el("ul", { class: "services" });
    const none = el("p", { class: "quiet" }, "No services: built-in actions only");
    const element = el(
        "div",
        { class: "stack" },
        card(
            "Limits",
            el(
                "ul",
                { class: "limits" },
                bars.map((bar) => bar.element),
            ),
        ),
        card("Services", services, none),
    );
    return {
        element,
        update({ looks }) {
            const series = looks.last;
            for (const { metric, unit, text, fill } of bars) {
                const [taken, limit] = [series.get(metric), series.get(`${metric}_limit`)];
                const share = limit > 0 ? Math.min(taken / limit, 1) : 0;
                say(text, `${amountOf(taken, unit)} of ${amountOf(limit, unit)}`);
                fill.style.width = `${(share * 100).toFixed(1)}%`;
                fill.dataset.level = share >= 0.9 ? "bad" : share >= 0.7 ? "warn" : "good";
            }
            const metric = "openexec_upstream_addresses";
            const names = [...series.by(metric, "upstream").keys()].sort();
            const known = names.map((upstream) => {
                const of = (which) => series.sum(metric, { upstream, which });
                return { upstream, all: of("all"), healthy: of("healthy") };
            });
            none.hidden = known.length > 0;
            keep(services, known, (one) => one.upstream, service);
        },
    };
}

function service({ upstream, all, healthy }) {
    const level = healthy === 0 ? "bad" : healthy < all ? "warn" : "good";
    return el(
        "li",
        { "data-level": level },
        el("span", { class: "sign", "aria-hidden": "true" }, { bad: "✕", warn: "!", good: "✓" }[level]),
        foreign(upstream),
        el("span", { class: "figure" }, `${healthy} of ${all} healthy`),
    );
}

/** Which action does what, and which one fails. */
function actions() {
    const metric = "openexec_executions_total";
    const { element: list, body } = table("Executions by action", [
        "Action",
        "Per second",
        "Done",
        "Not executed",
        "Unknown",
    ]);
    const more = el("p", { class: "quiet" });
    const element = card("By action, since the start", list, more);
    return {
        element,
        update({ looks }) {
            const window = looks.window();
            const known = [...looks.last.by(metric, "action")].map(([action, total]) => {
                const of = (outcome) => looks.last.sum(metric, { action, outcome });
                const now = window ? rate(window.since.sum(metric, { action }) / window.seconds) : "–";
                return { action, total, now, done: of("done"), not: of("not_executed"), unknown: of("unknown") };
            });
            known.sort((a, b) => b.total - a.total || a.action.localeCompare(b.action));
            element.hidden = known.length === 0;
            keep(body, known.slice(0, BUSIEST), (one) => one.action, busy);
            say(more, known.length > BUSIEST ? `and ${known.length - BUSIEST} more actions` : "");
        },
    };
}

function busy({ action, now, done, not, unknown }) {
    const link = (state) => `#/executions?state=${state}&action=${encodeURIComponent(action)}`;
    const count = (value, state) => (value > 0 ? el("a", { href: link(state) }, grouped(value)) : "0");
    return row({
        Action: el("a", { href: `#/executions?action=${encodeURIComponent(action)}` }, foreign(action)),
        "Per second": now,
        Done: grouped(done),
        "Not executed": count(not, "NOT_EXECUTED"),
        Unknown: count(unknown, "UNKNOWN"),
    });
}

function recent() {
    const { element: list, body } = executionTable("The newest executions");
    const place = el("div", {});
    const element = card("Newest executions", place, el("p", {}, el("a", { href: "#/executions" }, "All executions")));
    return {
        element,
        async update() {
            try {
                const { executions } = await get(`executions?limit=${RECENT}`);
                keep(
                    body,
                    executions,
                    (record) => record.id,
                    (record) => executionRow(record, `#/executions/${encodeURIComponent(record.id)}`),
                );
                const shown = executions.length > 0 ? list : none;
                if (place.firstChild !== shown) {
                    show(place, shown);
                }
            } catch (error) {
                if (error.code) {
                    show(place, trouble(error));
                }
            }
        },
    };
}

const none = empty("No executions yet", el("p", { class: "quiet" }, "What is sent to /execute appears here"));
