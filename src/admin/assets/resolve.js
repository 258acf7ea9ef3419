// An operator says what became of an execution whose outcome is unknown.

import { post } from "./api.js";
import { el, say } from "./dom.js";
import { problemOf } from "./json.js";
import { foreign, mono } from "./parts.js";
import { printable } from "./text.js";

const NAME = "openexec-name";

/** Asks, and sends what is answered; `done` gets the execution as it is then. */
export function resolver(record, done) {
    const by = el("input", {
        name: "by",
        required: true,
        maxlength: "128",
        autocomplete: "off",
        value: localStorage.getItem(NAME) ?? "",
    });
    const result = el("textarea", {
        name: "result",
        rows: "5",
        spellcheck: "false",
        class: "mono",
        "aria-describedby": "result-note",
    });
    const note = el(
        "p",
        { class: "quiet", id: "result-note" },
        "JSON, as the service would have answered. Its receipt is made of it.",
    );
    const given = el("div", { class: "given", hidden: true }, el("label", {}, el("span", {}, "Result"), result), note);
    const problem = el("p", { class: "problem", role: "alert" });
    const send = el("button", { type: "submit", class: "primary" }, "Record this outcome");
    const choice = (value, title, means) =>
        el(
            "label",
            { class: "choice" },
            el("input", { type: "radio", name: "outcome", value, required: true }),
            el("span", {}, el("strong", {}, title), el("span", { class: "quiet" }, means)),
        );
    const form = el(
        "form",
        {},
        el("h2", { id: "resolve-title" }, "What became of ", foreign(record.action), "?"),
        el("p", { class: "quiet" }, mono(record.id)),
        el(
            "p",
            {},
            "Look first where the action has its effects. What you say here is what the client’s retries get, for good: nobody can take it back.",
        ),
        el("label", {}, el("span", {}, "Who says so"), by),
        el(
            "fieldset",
            {},
            el("legend", {}, "Outcome"),
            choice("done", "It was done", "Retries get the result that you give"),
            choice(
                "not_executed",
                "It was not executed",
                "Nothing happened, and nothing will. The nonce and the approval stay used",
            ),
        ),
        given,
        problem,
        el(
            "div",
            { class: "buttons" },
            el("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
            send,
        ),
    );
    const dialog = el("dialog", { class: "resolve", "aria-labelledby": "resolve-title" }, form);
    const outcome = () => form.elements.outcome.value;
    form.addEventListener("change", () => {
        given.hidden = outcome() !== "done";
    });
    form.addEventListener("submit", async (event) => {
        event.preventDefault();
        const wrong = outcome() === "done" ? problemOf(result.value) : null;
        say(problem, wrong ?? "");
        result.setAttribute("aria-invalid", String(wrong !== null));
        if (wrong !== null) {
            result.focus();
            return;
        }
        send.disabled = true;
        try {
            const answer = await post(
                `executions/${encodeURIComponent(record.id)}/resolve`,
                body(outcome(), by.value.trim(), result.value),
            );
            localStorage.setItem(NAME, by.value.trim());
            dialog.close();
            done(answer);
        } catch (error) {
            say(problem, `${printable(error.message)}${error.code ? ` (${printable(error.code)})` : ""}`);
        } finally {
            send.disabled = false;
        }
    });
    const opener = document.activeElement;
    dialog.addEventListener("close", () => {
        dialog.remove();
        opener?.focus();
    });
    document.body.append(dialog);
    dialog.showModal();
    (by.value === "" ? by : form.elements.outcome[0]).focus();
}

/** The result as it was typed: no digit of it may change. */
export function body(outcome, by, result) {
    const name = JSON.stringify(by);
    return outcome === "done"
        ? `{"outcome":"done","result":${result},"by":${name}}`
        : `{"outcome":"not_executed","by":${name}}`;
}
