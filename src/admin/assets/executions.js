// Executions: filters, the list, and one of them beside it.

import { get } from "./api.js";
import { detail } from "./detail.js";
import { el, find, keep, say, show } from "./dom.js";
import { empty, trouble } from "./parts.js";
import { executionRow, executionTable } from "./rows.js";
import { STATES } from "./words.js";

const PAGE = 50;
/** After the last key. */
const TYPED = 250;
/** What the address may say of the list. */
const FILTERS = ["state", "action", "tenant", "search"];

export function executions(app) {
    const filters = filterForm(changed);
    const { element: list, body } = executionTable("Executions, the newest first");
    const status = el("p", { class: "quiet", role: "status" });
    const problem = el("div", {});
    const nothing = el("div", {});
    const older = el("button", { type: "button", onclick: () => more() }, "Older");
    const newest = el("button", { type: "button", onclick: () => restart() }, "Back to the newest");
    const one = detail(app, close, replace);
    const element = el(
        "div",
        { class: "beside" },
        el(
            "div",
            { class: "list" },
            el("h1", {}, "Executions"),
            filters.element,
            status,
            problem,
            list,
            nothing,
            el("p", { class: "pages" }, older, newest),
        ),
        one.element,
    );

    let [query, rows, next, isLive] = ["", [], null, true];
    /** A later question makes an earlier answer worthless. */
    let asked = 0;

    function changed() {
        history.replaceState(null, "", address(one.id, filters.query()));
        restart();
    }

    async function restart() {
        [query, isLive] = [filters.query(), true];
        // What is there is the answer to another question.
        list.classList.add("old");
        say(status, "Looking …");
        await load();
    }

    /** The first page, again. */
    async function load() {
        const mine = (asked += 1);
        try {
            const answer = await get(path(query));
            if (mine === asked) {
                [rows, next] = [answer.executions, answer.next];
                draw();
            }
        } catch (error) {
            failed(mine, error);
        }
    }

    /** What comes behind. From then on the list stands still, or pages would slide apart. */
    async function more() {
        const mine = (asked += 1);
        isLive = false;
        try {
            const answer = await get(`${path(query)}&before=${encodeURIComponent(next)}`);
            if (mine === asked) {
                const known = new Set(rows.map((row) => row.id));
                rows = [...rows, ...answer.executions.filter((row) => !known.has(row.id))];
                next = answer.next;
                draw();
            }
        } catch (error) {
            failed(mine, error);
        }
    }

    function failed(mine, error) {
        if (mine === asked && error.status !== 401) {
            say(status, "");
            show(
                problem,
                trouble(error, () => (isLive ? load() : more())),
            );
            list.classList.add("old");
        }
    }

    function draw() {
        show(problem);
        list.classList.remove("old");
        keep(
            body,
            rows,
            (row) => row.id,
            (row) => executionRow(row, address(row.id, query)),
        );
        mark();
        list.hidden = rows.length === 0;
        older.hidden = next === null;
        const isFiltered = query !== "";
        say(older, isFiltered && rows.length < PAGE ? "Search older ones" : "Older");
        newest.hidden = isLive;
        const count = `${rows.length} ${isFiltered ? "found" : "shown"}`;
        const more = next === null ? "" : isFiltered ? ", older ones not looked through yet" : ", there are older ones";
        say(status, rows.length === 0 ? "" : `${count}${more}${isLive ? "" : "; not live"}`);
        const none =
            rows.length > 0
                ? []
                : !isFiltered
                  ? empty("No executions yet", el("p", { class: "quiet" }, "What is sent to /execute appears here"))
                  : empty(
                        next === null ? "Nothing matches" : "Nothing matches among the newest",
                        el("button", { type: "button", onclick: () => filters.clear() }, "Show all"),
                    );
        show(nothing, none);
    }

    /** The row that is shown beside. */
    function mark() {
        for (const row of body.children) {
            row.classList.toggle("open", row.dataset.key === one.id);
        }
    }

    /** It is another one now: resolved, or settled meanwhile. */
    function replace(record) {
        const at = rows.findIndex((row) => row.id === record.id);
        if (at >= 0) {
            const { payload, result, ...summary } = record;
            rows[at] = summary;
            draw();
        }
    }

    function close() {
        const { id } = one;
        location.hash = address(null, filters.query());
        const link = [...body.children].find((row) => row.dataset.key === id)?.querySelector("a");
        link?.focus();
    }

    let ticks = 0;
    return {
        title: "Executions",
        element,
        async enter(id, parameters) {
            const isOther = filters.set(parameters) || rows.length === 0;
            element.toggleAttribute("data-open", id !== null);
            one.open(id);
            if (isOther) {
                await restart();
            } else {
                mark();
            }
        },
        async update(state) {
            filters.suggest(state);
            one.update();
            ticks += 1;
            // A search costs the server more than the newest page does.
            const every = FILTERS.slice(1).some((name) => new URLSearchParams(query).has(name)) ? 5 : 1;
            if (isLive && ticks % every === 0) {
                await load();
            }
        },
        leave() {
            one.open(null);
        },
        search: () => find("[name=search]", filters.element).focus(),
    };
}

const path = (query) => `executions?limit=${PAGE}${query && `&${query}`}`;

/** Where this list, and this execution beside it, are found again. */
function address(id, query) {
    return `#/executions${id ? `/${encodeURIComponent(id)}` : ""}${query && `?${query}`}`;
}

function filterForm(changed) {
    const chip = (value, label) => {
        const input = el("input", { type: "radio", name: "state", value });
        return el("label", { class: "chip", "data-state": value }, input, el("span", {}, label));
    };
    const field = (name, label, attributes) =>
        el(
            "label",
            { class: `of-${name}` },
            el("span", {}, label),
            el("input", { name, autocomplete: "off", spellcheck: "false", ...attributes }),
        );
    const actions = el("datalist", { id: "actions" });
    const element = el(
        "form",
        { class: "filters", role: "search", "aria-label": "Executions" },
        el(
            "fieldset",
            {},
            el("legend", { class: "unseen" }, "State"),
            chip("", "All"),
            Object.keys(STATES).map((state) => chip(state, state)),
        ),
        field("search", "Search", {
            type: "search",
            placeholder: "id, nonce, approval, hash, caller",
            "aria-keyshortcuts": "/",
        }),
        field("action", "Action", { type: "search", list: "actions", placeholder: "all" }),
        field("tenant", "Tenant", { type: "search", placeholder: "all" }),
        actions,
    );
    const value = (name) => (name === "state" ? element.elements.state.value : element.elements[name].value.trim());
    let timer;
    element.addEventListener("submit", (event) => event.preventDefault());
    element.addEventListener("input", (event) => {
        clearTimeout(timer);
        timer = setTimeout(changed, event.target.name === "state" ? 0 : TYPED);
    });
    return {
        element,
        query: () =>
            FILTERS.map((name) => [name, value(name)])
                .filter(([, text]) => text !== "")
                .map(([name, text]) => `${name}=${encodeURIComponent(text)}`)
                .join("&"),
        /** Whether that is another filter than before. */
        set(parameters) {
            const before = this.query();
            for (const name of FILTERS) {
                const wanted = parameters.get(name) ?? "";
                if (name === "state") {
                    element.elements.state.value = Object.hasOwn(STATES, wanted.toUpperCase())
                        ? wanted.toUpperCase()
                        : "";
                } else {
                    element.elements[name].value = wanted;
                }
            }
            return this.query() !== before;
        },
        clear() {
            this.set(new URLSearchParams());
            changed();
        },
        suggest({ status }) {
            const names = (status?.actions ?? []).map((action) => action.name);
            keep(
                actions,
                names,
                (name) => name,
                (name) => el("option", { value: name }),
            );
        },
    };
}
