// What several views are made of.

import { el, say } from "./dom.js";
import { ago, moment, printable } from "./text.js";
import { STATES } from "./words.js";

/** Text that somebody else chose, kept from changing the direction of its neighbours. */
export const foreign = (value, attributes = {}) => el("bdi", attributes, printable(value));

/** The same, in the type of ids. */
export const mono = (value) => foreign(value, { class: "mono" });

export function pill(state) {
    const { sign, means } = STATES[state] ?? { sign: "", means: "" };
    return el(
        "span",
        { class: "pill", "data-state": state, title: means },
        el("span", { class: "sign", "aria-hidden": "true" }, sign),
        printable(state),
    );
}

/** In the zone of who looks; UTC is in the title. `withAge`: how long ago, too. */
export function time(text, withAge = false) {
    const at = Date.parse(text ?? "");
    if (Number.isNaN(at)) {
        return el("span", {}, "–");
    }
    const utc = new Date(at).toISOString();
    const element = el("time", { datetime: utc, title: `${utc.replace("T", " ").replace("Z", " UTC")}` }, moment(at));
    return withAge ? [element, " ", el("span", { class: "quiet", "data-since": at }, `(${ago(at)})`)] : element;
}

/** Ages go on without anything being drawn anew. */
export function age() {
    for (const element of document.querySelectorAll("[data-since]")) {
        say(element, `(${ago(Number(element.dataset.since))})`);
    }
}

export function copier(text, what) {
    const button = el("button", { type: "button", class: "small", "aria-label": `Copy ${what}` }, "Copy");
    button.addEventListener("click", async () => {
        try {
            await navigator.clipboard.writeText(text);
            say(button, "Copied");
        } catch {
            say(button, "Not allowed");
        }
        setTimeout(() => say(button, "Copy"), 1_500);
    });
    return button;
}

export const card = (title, ...children) => el("section", { class: "card" }, el("h2", {}, title), children);

/** `[name, value]`; those without a value are left out. */
export function facts(...pairs) {
    const known = pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined);
    return el(
        "dl",
        {},
        known.map(([name, ...value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    );
}

/** A table that narrow screens show as cards. Roles are given since a table that is no table to CSS loses its own. */
export function table(caption, heads) {
    const cells = heads.map((head) => el("th", { scope: "col", role: "columnheader" }, head));
    const body = el("tbody", { role: "rowgroup" });
    const element = el(
        "table",
        { role: "table" },
        el("caption", { class: "unseen" }, caption),
        el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, cells)),
        body,
    );
    return { element: el("div", { class: "table" }, element), body };
}

/** `cells`: `{name: content}`; the names are shown where the heads are not. */
export function row(cells, attributes = {}) {
    const made = Object.entries(cells).map(([name, content]) =>
        el("td", { role: "cell", "data-name": name, class: `of-${name.toLowerCase()}` }, content),
    );
    made.filter((cell) => cell.textContent === "–").forEach((cell) => cell.classList.add("none"));
    return el("tr", { role: "row", ...attributes }, made);
}

/** Arrow keys go from row to row. */
export function walk(body) {
    body.addEventListener("keydown", (event) => {
        const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        const links = [...body.querySelectorAll("a")];
        const next = links[links.indexOf(document.activeElement) + step];
        if (step && next) {
            event.preventDefault();
            next.focus();
        }
    });
}

/** In place of what there is not. */
export const empty = (title, ...more) => el("div", { class: "empty" }, el("p", {}, title), more);

/** Why something is not there, or no longer true. */
export function trouble(error, retry) {
    const code = error.code ? el("code", {}, error.code) : null;
    const again = retry && el("button", { type: "button", onclick: retry }, "Try again");
    return el("div", { class: "trouble", role: "alert" }, el("p", {}, printable(error.message), " ", code), again);
}
