// Executions as rows.

import { el } from "./dom.js";
import { foreign, mono, pill, row, table, time, walk } from "./parts.js";
import { span } from "./text.js";

export function executionTable(caption) {
    const made = table(caption, ["State", "Action", "Tenant", "Nonce", "Claimed", "Took", "Id"]);
    made.element.classList.add("executions");
    walk(made.body);
    // The whole row is the link, for whoever has a pointer.
    made.body.addEventListener("click", (event) => {
        const selected = String(getSelection()) !== "";
        const link = event.target.closest("tr")?.querySelector("a");
        if (link && !selected && !event.target.closest("a")) {
            link.click();
        }
    });
    return made;
}

export function executionRow(record, href) {
    return row(
        {
            State: pill(record.state),
            Action: foreign(record.action),
            Tenant: foreign(record.tenant),
            Nonce: mono(record.nonce),
            Claimed: time(record.claimed_at),
            Took: took(record),
            Id: el("a", { href, class: "mono" }, record.id),
        },
        { "data-state": record.state },
    );
}

/** From the claim to the outcome. */
export function took(record) {
    const [from, to] = [Date.parse(record.claimed_at), Date.parse(record.settled_at ?? "")];
    return Number.isNaN(to) ? "–" : span(to - from);
}
