// The way in.

import { logIn } from "./api.js";
import { el, say, show } from "./dom.js";
import { printable } from "./text.js";

/** `word`: why one is here. `entered` gets the session. */
export function login(word, entered) {
    const token = el("input", {
        name: "token",
        type: "password",
        required: true,
        autocomplete: "off",
        spellcheck: "false",
        "aria-describedby": "token-note",
    });
    const problem = el("p", { class: "problem", role: "alert" });
    const button = el("button", { type: "submit", class: "primary" }, "Log in");
    const element = el("div", { class: "lone" });
    const form = el(
        "form",
        {},
        el("h1", {}, "Log in"),
        word && el("p", { class: "word", role: "status" }, word),
        globalThis.isSecureContext ? null : plain(),
        el("label", {}, el("span", {}, "Admin token"), token),
        el(
            "p",
            { class: "quiet", id: "token-note" },
            "What the server has as ",
            el("code", {}, "OPENEXEC_ADMIN_TOKEN"),
            " (reads and resolves) or ",
            el("code", {}, "OPENEXEC_ADMIN_READ_TOKEN"),
            " (reads). This page does not keep it; the session is this tab’s.",
        ),
        problem,
        button,
    );
    form.addEventListener("submit", async (event) => {
        event.preventDefault();
        say(problem, "");
        button.disabled = true;
        try {
            entered(await logIn(token.value));
        } catch (error) {
            if (error.status === 404) {
                show(element, noTokens());
                return;
            }
            say(problem, error.status === 401 ? "The token is not one of this server’s" : printable(error.message));
            token.select();
            token.focus();
        } finally {
            button.disabled = false;
        }
    });
    show(element, form);
    return { title: "Log in", element, focus: () => token.focus() };
}

/** Nobody can log in here. */
export function closed() {
    return { title: "No admin token", element: el("div", { class: "lone" }, noTokens()), focus: () => {} };
}

function noTokens() {
    return el(
        "div",
        {},
        el("h1", {}, "This server has no admin token"),
        el(
            "p",
            {},
            "So nobody may look at what it executed. Give it one, of 16 characters or more, and start it again:",
        ),
        el(
            "dl",
            {},
            el(
                "div",
                {},
                el("dt", {}, el("code", {}, "OPENEXEC_ADMIN_TOKEN")),
                el("dd", {}, "reads executions, and resolves unknown ones"),
            ),
            el("div", {}, el("dt", {}, el("code", {}, "OPENEXEC_ADMIN_READ_TOKEN")), el("dd", {}, "reads")),
        ),
        el(
            "p",
            { class: "quiet" },
            "Each may be a file instead: OPENEXEC_ADMIN_TOKEN_FILE. Metrics are open without one: /metrics.",
        ),
    );
}

function plain() {
    return el(
        "p",
        { class: "word", "data-level": "warn" },
        "! This page came over plain HTTP from another machine: whoever is on the way sees the token. ",
        "Use ",
        el("code", {}, "ssh -L"),
        " or ",
        el("code", {}, "kubectl port-forward"),
        " and open it on localhost.",
    );
}
