// One execution, with everything that is known of it.

import { get } from "./api.js";
import { el, find, show } from "./dom.js";
import { indented } from "./json.js";
import { copier, facts, foreign, mono, pill, time, trouble } from "./parts.js";
import { canCheck, isActionHashOf, isReceiptOf } from "./receipt.js";
import { resolver } from "./resolve.js";
import { took } from "./rows.js";
import { grouped } from "./text.js";
import { RECOVERY, STATES } from "./words.js";

/** More of a text is not drawn: a browser that must lay out megabytes stands still. */
const MOST = 200_000;

/** `close` leaves it; `changed` hears of each new state. */
export function detail(app, close, changed) {
    const body = el("div", {});
    const element = el("aside", { class: "detail", "aria-label": "One execution", hidden: true }, body);
    let [id, known, isRefused] = [null, "", false];

    async function load(isFirst) {
        const wanted = id;
        isRefused = false;
        try {
            const record = await get(`executions/${encodeURIComponent(wanted)}`);
            if (wanted === id) {
                draw(record, isFirst);
            }
        } catch (error) {
            if (wanted === id && isFirst && error.status !== 401) {
                // What cannot be asked now is asked again by itself; what is refused, by whoever reads why.
                isRefused = error.code !== undefined;
                show(
                    body,
                    head(error.status === 404 ? "Not found" : "Not known now", close),
                    trouble(error, () => load(true)),
                );
            }
        }
    }

    function draw(record, isFirst) {
        const version = JSON.stringify(record) + app.role;
        if (version === known) {
            return;
        }
        const isChange = known !== "";
        known = version;
        const hadFocus = body.contains(document.activeElement);
        show(
            body,
            whole(record, app, close, (answer) => (answer.id === id ? draw(answer, false) : changed(answer))),
        );
        if (isFirst || hadFocus) {
            find("h2", body).focus({ preventScroll: !isFirst });
        }
        if (isChange) {
            changed(record);
            app.announce(`${record.id} is ${record.state} now`);
        }
    }

    return {
        element,
        get id() {
            return id;
        },
        open(wanted) {
            element.hidden = wanted === null;
            if (wanted === id) {
                return;
            }
            [id, known] = [wanted, ""];
            // One is not resolved while another is looked at.
            document.querySelector("dialog.resolve")?.close();
            if (id === null) {
                show(body);
            } else {
                show(body, head("…", close));
                load(true);
            }
        },
        /** What is settled stays as it is. */
        update() {
            if (
                id !== null &&
                !isRefused &&
                !known.includes('"state":"DONE"') &&
                !known.includes('"state":"NOT_EXECUTED"')
            ) {
                load(known === "");
            }
        },
    };
}

function head(title, close, ...more) {
    return el(
        "header",
        {},
        el("h2", { tabindex: "-1" }, title),
        more,
        el(
            "button",
            { type: "button", class: "close", onclick: close, "aria-label": "Close", "aria-keyshortcuts": "Escape" },
            "✕",
        ),
    );
}

function whole(record, app, close, changed) {
    return [
        head(foreign(record.action), close, pill(record.state)),
        record.state === "UNKNOWN" ? unknown(record, app, changed) : null,
        part("States", states(record)),
        typeof record.payload === "string" ? part("Payload", json(record.payload, "the payload")) : null,
        record.state === "DONE" ? part("Result", result(record)) : null,
        part(
            "Request",
            facts(
                ["Id", mono(record.id), " ", copier(record.id, "the id")],
                ["Nonce", mono(record.nonce)],
                ["Tenant", record.tenant ? foreign(record.tenant) : "none"],
                record.caller && ["Caller", foreign(record.caller)],
                typeof record.payload === "string" ? null : ["Payload", payloadGone(record)],
            ),
        ),
        part(
            "Approval",
            facts(
                ["Id", record.approval_id ? mono(record.approval_id) : "none: nothing was approved (demo mode)"],
                record.key_id && ["Key", foreign(record.key_id)],
                ["Action hash", mono(record.action_hash), hashCheck(record)],
            ),
        ),
        part(
            "Upstream",
            record.route
                ? facts(
                      ["Route", foreign(record.route)],
                      ["Recovery", RECOVERY[record.recovery] ?? foreign(record.recovery)],
                      record.status !== null && ["Status", record.status],
                  )
                : el("p", { class: "quiet" }, "None: the gate computed it itself"),
        ),
    ];
}

const part = (title, ...content) => el("section", {}, el("h3", {}, title), content);

function unknown(record, app, changed) {
    const button = el(
        "button",
        { type: "button", class: "primary", onclick: () => resolver(record, changed) },
        "Resolve …",
    );
    const reader = el(
        "p",
        { class: "quiet" },
        "This session may read, and not resolve: log in with OPENEXEC_ADMIN_TOKEN for that.",
    );
    const recovery = record.recovery && record.recovery !== "operator";
    return el(
        "div",
        { class: "callout" },
        el("p", {}, `${STATES.UNKNOWN.means}. Retries are told outcome_unknown until somebody knows.`),
        recovery && el("p", {}, "The gate tries to find out by itself, as long as its window is open."),
        app.role === "operator" ? button : reader,
    );
}

function states(record) {
    const steps = [
        el("li", { "data-state": "INTENT" }, el("strong", {}, "Claimed"), " ", time(record.claimed_at, true)),
    ];
    if (record.state === "INTENT") {
        steps.push(el("li", { class: "open" }, STATES.INTENT.means, ": no outcome yet"));
    } else {
        steps.push(
            el(
                "li",
                { "data-state": record.state },
                el("strong", {}, record.state),
                " ",
                record.settled_at ? [time(record.settled_at, true), ` after ${took(record)}`] : null,
                record.settled_by ? [", by ", foreign(record.settled_by)] : null,
                record.state === "UNKNOWN" ? null : el("span", { class: "quiet means" }, STATES[record.state]?.means),
            ),
        );
    }
    return el("ol", { class: "states" }, steps);
}

function result(record) {
    if (typeof record.result !== "string") {
        return [
            el("p", { class: "quiet" }, "It is no longer kept (retention.results), and its receipt is."),
            facts(["Receipt", mono(record.receipt)]),
        ];
    }
    const said = el("span", { class: "check", role: "status" }, "checking …");
    const check = async () =>
        (await isReceiptOf(record.id, record.result, record.receipt))
            ? ["good", "valid: this is the result of that execution"]
            : ["bad", "NOT valid: id, result and receipt do not belong together"];
    verdict(said, check);
    return [
        json(record.result, "the result"),
        facts(["Receipt", mono(record.receipt), " ", copier(record.receipt, "the receipt"), said]),
    ];
}

function hashCheck(record) {
    if (typeof record.payload !== "string") {
        return null;
    }
    const said = el("span", { class: "check", role: "status" }, "checking …");
    const check = async () =>
        (await isActionHashOf(record.action, record.payload, record.action_hash))
            ? ["good", "valid: it is of this action and this payload"]
            : ["bad", "NOT valid: it is of another action or payload"];
    verdict(said, check);
    return said;
}

/** Says what this browser found out by itself. */
async function verdict(element, check) {
    const [level, text] = canCheck()
        ? await check()
        : ["warn", "not checked: browsers compute hashes on https:// and on localhost only"];
    element.dataset.level = level;
    element.textContent = `${{ good: "✓", bad: "✕", warn: "!" }[level]} ${text}`;
}

function payloadGone(record) {
    const why = record.route
        ? "It is kept until the outcome is known, and no longer"
        : "A computed action's is not kept";
    return el("span", { class: "quiet" }, why);
}

function json(text, what) {
    const isLong = text.length > MOST;
    const shown = isLong ? text.slice(0, MOST) : indented(text);
    return [
        el("pre", { tabindex: "0", role: "region", "aria-label": what }, shown),
        el(
            "p",
            { class: "quiet" },
            copier(text, what),
            isLong && ` ${grouped(MOST)} of ${grouped(text.length)} characters are shown`,
        ),
    ];
}
