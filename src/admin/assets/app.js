// The page: whether somebody is logged in, what is looked at, and how often.

import * as api from "./api.js";
import { configuration } from "./configuration.js";
import { denials } from "./denials.js";
import { find, say, show } from "./dom.js";
import { executions } from "./executions.js";
import { headline } from "./head.js";
import { closed, login } from "./login.js";
import { Looks } from "./looks.js";
import { Series } from "./metrics.js";
import { overview } from "./overview.js";
import { age } from "./parts.js";
import { clock, moment, printable } from "./text.js";

const PERIOD = 2_000;
/** Looks between two at what changes slowly. */
const STATUS_EVERY = 5;

const app = { looks: new Looks(), reasons: [], status: null, role: null, session: null, goneSince: null, announce };
const main = find("#main");
const NAMES = { overview, executions, denials, configuration };
/** Made anew for each session: nothing of one is left to the next. */
let views = {};

let current = null;
let isPaused = false;
let ticks = 0;

// What is shown: by the address, so that going back, reloading and sharing work.

function route() {
    if (app.role === null) {
        return;
    }
    const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
    const [name, id = null] = path.split("/").map(decode);
    const view = Object.hasOwn(views, name) ? views[name] : views.overview;
    if (view !== current) {
        current?.leave?.();
        enter(view);
    }
    for (const link of document.querySelectorAll("nav a")) {
        if (views[link.dataset.view] === view) {
            link.setAttribute("aria-current", "page");
        } else {
            link.removeAttribute("aria-current");
        }
    }
    view.enter(id === "" ? null : id, new URLSearchParams(query));
    view.update(app);
    head();
}

function enter(view) {
    const isFirst = current === null;
    current = view;
    show(main, view.element);
    if (!isFirst) {
        scrollTo(0, 0);
        main.focus({ preventScroll: true });
    }
}

function decode(text) {
    try {
        return decodeURIComponent(text);
    } catch {
        return text;
    }
}

// The session.

async function start() {
    try {
        const session = await api.session();
        back();
        if (session) {
            entered(session);
        } else {
            leave(null);
        }
    } catch (error) {
        if (error.status === 404) {
            outside(closed());
        } else if (error instanceof api.Gone) {
            gone();
            setTimeout(start, PERIOD);
            return;
        } else {
            leave(error.message);
        }
    }
    look();
}

function entered(session) {
    app.role = session.role;
    views = Object.fromEntries(Object.entries(NAMES).map(([name, make]) => [name, make(app)]));
    for (const part of ["#nav", "#log-out", "#pause"]) {
        find(part).hidden = false;
    }
    const until = session.expires_at ? `, until ${moment(Date.parse(session.expires_at))}` : "";
    app.session = `${session.role === "operator" ? "operator: reads and resolves" : "reader: reads"}${until}`;
    current = null;
    route();
    tick();
}

/** To the log-in page. */
function leave(word) {
    app.role = null;
    app.status = null;
    app.session = null;
    document.querySelector("dialog")?.close();
    outside(
        login(word, (session) => {
            entered(session);
            main.focus({ preventScroll: true });
        }),
    );
}

function outside(view) {
    for (const part of ["#nav", "#log-out", "#pause"]) {
        find(part).hidden = true;
    }
    current?.leave?.();
    current = view;
    show(main, view.element);
    view.focus();
    head();
}

api.onSessionEnd(() => app.role !== null && leave("The session has ended: log in again"));

// What the server is asked for, again and again, while somebody looks.

async function look() {
    for (;;) {
        if (!isPaused) {
            await tick();
        }
        await new Promise((resolve) => setTimeout(resolve, PERIOD));
        if (document.hidden) {
            await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
        }
    }
}

/** One look at a time: two that are close together make no rate. */
let underWay = null;
const tick = () => (underWay ??= lookOnce().finally(() => (underWay = null)));

async function lookOnce() {
    try {
        const [metrics, ready] = await Promise.all([api.probe("metrics"), api.probe("readyz")]);
        const series = Series.parse(metrics.text);
        if (!metrics.ok || !series.has("openexec_build_info")) {
            throw new api.Gone("Something else answers");
        }
        app.looks.add(performance.now(), series);
        const reasons = ready.text.split("\n").filter((line) => line !== "");
        readiness(ready.ok ? [] : reasons.length > 0 ? reasons : ["unknown"]);
        back();
        if (app.role !== null) {
            if (ticks % STATUS_EVERY === 0 || app.status === null) {
                app.status = await api.get("status");
            }
            await current.update?.(app);
        }
        ticks += 1;
    } catch (error) {
        if (error instanceof api.Gone) {
            gone();
        } else if (error.status !== 401) {
            announce(printable(error.message));
        }
    }
    head();
    age();
}

function readiness(reasons) {
    if (app.goneSince === null && ticks > 0 && String(reasons) !== String(app.reasons)) {
        announce(reasons.length === 0 ? "The server is ready" : `The server is not ready: ${reasons.join(", ")}`);
    }
    app.reasons = reasons;
}

/** The last that is known stays, and is said to be old. */
function gone() {
    app.goneSince ??= Date.now();
    document.body.toggleAttribute("data-gone", true);
    const banner = find("#gone");
    if (banner.hidden) {
        banner.hidden = false;
        say(
            find("#gone-text"),
            `The server does not answer, since ${clock(app.goneSince)}. What you see is from before. ` +
                "It is asked again every two seconds.",
        );
    }
}

function back() {
    if (app.goneSince !== null) {
        app.goneSince = null;
        document.body.removeAttribute("data-gone");
        find("#gone").hidden = true;
        announce("The server answers again");
    }
}

const head = () => headline(app, current?.title);

/** To who listens instead of looking. */
function announce(text) {
    say(find("#announce"), text);
}

// What a hand does.

function chooseTheme(event) {
    const { value } = event.target;
    if (value === "") {
        delete document.documentElement.dataset.theme;
        localStorage.removeItem("openexec-theme");
    } else {
        document.documentElement.dataset.theme = value;
        localStorage.setItem("openexec-theme", value);
    }
}

/** What the next one who logs in need not know. */
function forget() {
    history.replaceState(null, "", "#/");
    localStorage.removeItem("openexec-name");
}

addEventListener("hashchange", route);
find("#theme").value = document.documentElement.dataset.theme ?? "";
find("#theme").addEventListener("change", chooseTheme);
find("#retry").addEventListener("click", () => tick());
find("#pause").addEventListener("click", (event) => {
    isPaused = !isPaused;
    event.target.setAttribute("aria-pressed", String(isPaused));
    document.body.toggleAttribute("data-paused", isPaused);
    say(event.target, isPaused ? "Paused" : "Pause");
});
find("#log-out").addEventListener("click", async () => {
    let word = "You are logged out";
    try {
        await api.logOut();
    } catch (error) {
        if (error.status !== 401) {
            word = "You are logged out here; the server could not be told, and ends the session by itself within an hour";
        }
    }
    forget();
    leave(word);
});
find(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
});
addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) {
        return;
    }
    const isTyping = event.target.closest("input, textarea, select");
    if (event.key === "/" && !isTyping && app.role !== null) {
        event.preventDefault();
        if (!current.search) {
            // Without the event that setting the hash brings later: it would take away what is typed meanwhile.
            history.pushState(null, "", "#/executions");
            route();
        }
        current.search();
    } else if (event.key === "Escape" && location.hash.startsWith("#/executions/")) {
        find(".detail .close")?.click();
    }
});

start();
