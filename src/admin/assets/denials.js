// Requests with a good approval that were refused all the same.

import { get } from "./api.js";
import { el, keep, say, show } from "./dom.js";
import { empty, foreign, mono, row, table, time, trouble } from "./parts.js";

const PAGE = 50;
const TYPED = 250;

export function denials() {
    const tenant = el("input", {
        name: "tenant",
        type: "search",
        placeholder: "all",
        autocomplete: "off",
        spellcheck: "false",
    });
    const form = el(
        "form",
        { class: "filters", role: "search", "aria-label": "Refused requests" },
        el("label", {}, el("span", {}, "Tenant"), tenant),
    );
    const { element: list, body } = table("Refused requests, the newest first", [
        "Reason",
        "Action",
        "Tenant",
        "Nonce",
        "Approval",
        "Key",
        "Caller",
        "Refused",
    ]);
    list.classList.add("denials");
    const status = el("p", { class: "quiet", role: "status" });
    const problem = el("div", {});
    const nothing = el("div", {});
    const older = el("button", { type: "button", onclick: () => more() }, "Older");
    const newest = el("button", { type: "button", onclick: () => restart() }, "Back to the newest");
    let [rows, next, isLive, asked] = [[], null, true, 0];

    async function load(before) {
        const mine = (asked += 1);
        const of = tenant.value.trim();
        try {
            const behind = before === null ? "" : `&before=${before}`;
            const answer = await get(`denials?limit=${PAGE}${of && `&tenant=${encodeURIComponent(of)}`}${behind}`);
            if (mine === asked) {
                rows = before === null ? answer.denials : [...rows, ...answer.denials];
                next = answer.next;
                draw();
            }
        } catch (error) {
            if (mine === asked && error.code && error.status !== 401) {
                show(
                    problem,
                    trouble(error, () => load(before)),
                );
                list.classList.add("old");
            }
        }
    }

    function restart() {
        isLive = true;
        load(null);
    }

    /** From then on the list stands still, or pages would slide apart. */
    function more() {
        isLive = false;
        load(next);
    }

    function draw() {
        show(problem);
        list.classList.remove("old");
        keep(body, rows, (one) => String(one.seq), denial);
        list.hidden = rows.length === 0;
        older.hidden = next === null;
        newest.hidden = isLive;
        say(
            status,
            rows.length === 0
                ? ""
                : `${rows.length} shown${next === null ? "" : ", there are older ones"}${isLive ? "" : "; not live"}`,
        );
        const why = "Requests that nobody approved leave no trace here: they are only counted";
        show(
            nothing,
            rows.length > 0
                ? []
                : empty(tenant.value ? "Nothing matches" : "Nothing refused yet", el("p", { class: "quiet" }, why)),
        );
    }

    let timer;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
        clearTimeout(timer);
        timer = setTimeout(restart, TYPED);
    });
    return {
        title: "Refused",
        element: el(
            "div",
            {},
            el("h1", {}, "Refused"),
            el(
                "p",
                { class: "quiet" },
                "Requests with an authentic approval that were refused all the same: too late, used before, not allowed.",
            ),
            form,
            status,
            problem,
            list,
            nothing,
            el("p", { class: "pages" }, older, newest),
        ),
        enter: () => restart(),
        update: () => (isLive ? load(null) : undefined),
        search: () => tenant.focus(),
    };
}

function denial(one) {
    return row({
        Reason: el("span", { class: "pill", "data-state": "REFUSED" }, foreign(one.reason)),
        Action: foreign(one.action),
        Tenant: foreign(one.tenant),
        Nonce: mono(one.nonce),
        Approval: mono(one.approval_id),
        Key: foreign(one.key_id),
        Caller: foreign(one.caller),
        Refused: time(one.denied_at),
    });
}
