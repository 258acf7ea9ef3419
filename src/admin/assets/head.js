// The head of the page, and of the browser's tab: what one must know wherever one looks.

import { find, say } from "./dom.js";
import { printable } from "./text.js";

export function headline(app, title) {
    const { level, sign, text, short } = readiness(app);
    const ready = find("#ready");
    ready.dataset.level = level;
    say(find(".sign", ready), sign);
    say(find("#ready-text"), text);
    const unknown = app.looks.last.get("openexec_unknown_executions");
    if (!app.looks.isEmpty) {
        count(unknown, app.announce);
    }
    const version = app.status?.version ? ` ${printable(app.status.version)}` : "";
    say(find("#about"), `OpenExec${version}${app.session ? `, ${app.session}` : ""}`);
    say(find("#host"), location.host);
    const loudest = short || (unknown > 0 ? `${unknown} unknown` : "");
    document.title = [loudest, title, "OpenExec"].filter((part) => part).join(" – ");
}

/** `short` is for a tab, where there is little room; nothing: all is well. */
function readiness({ looks, reasons, goneSince }) {
    if (goneSince !== null) {
        return { level: "bad", sign: "✕", text: "no answer", short: "no answer" };
    }
    if (looks.isEmpty) {
        return { level: "", sign: "…", text: "asking …", short: "" };
    }
    if (reasons.length === 0) {
        return { level: "good", sign: "✓", text: "ready", short: "" };
    }
    return { level: "bad", sign: "✕", text: `not ready: ${reasons.map(printable).join(", ")}`, short: "not ready" };
}

/** Beside the way to the executions; more of them are read out. */
function count(unknown, announce) {
    const badge = find("#unknown");
    const before = badge.dataset.count;
    if (before !== undefined && unknown > Number(before)) {
        announce(
            unknown === 1 ? "1 execution has an unknown outcome" : `${unknown} executions have an unknown outcome`,
        );
    }
    badge.dataset.count = unknown;
    badge.hidden = unknown === 0;
    say(find(".count", badge), String(unknown));
}
