// A browser, and what every test of it must hold: nothing fails in the page, and no other host is asked for anything.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { after, test as nodeTest } from "node:test";

/** What tests/it/page.rs has started. */
export const setup = JSON.parse(process.env.OPENEXEC_PAGE);

const tools = createRequire(`${setup.tools}/page/package.json`);
const { chromium } = tools("playwright-core");
const AXE = readFileSync(tools.resolve("axe-core/axe.min.js"), "utf8");
/** Longer than anything takes that works. */
export const PATIENCE = 20_000;

const FLAGS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // A host that is not this machine, as far as the browser can tell.
    "--host-resolver-rules=MAP elsewhere.test 127.0.0.1",
];
const browser = await chromium.launch({ executablePath: `${setup.tools}/chromium`, args: FLAGS });
after(() => browser.close());

export const test = (name, body, timeout = 120_000) => nodeTest(name, { timeout }, body);

/** Failures that the browser reports of answers that a test wants: they are no faults of the page. */
const NO_SESSION = /status of 401 .*\/session$/;

/** A context with one page on `url`, given to the body; what went wrong in it by itself is a failure. */
export async function visit(url, options, body) {
    const { expected = [], ...more } = options;
    const context = await browser.newContext({
        viewport: { width: 1280, height: 900 },
        reducedMotion: "reduce",
        ...more,
    });
    context.setDefaultTimeout(PATIENCE);
    const faults = [];
    const watch = (page) => {
        page.on("console", (message) => {
            const text = `${message.text()} ${message.location().url}`;
            const isWanted = [NO_SESSION, ...expected].some((pattern) => pattern.test(text));
            if (["error", "warning"].includes(message.type()) && !isWanted) {
                faults.push(`${message.type()}: ${text}`);
            }
        });
        page.on("pageerror", (error) => faults.push(error.stack));
        page.on("dialog", (dialog) => {
            faults.push(`a dialog: ${dialog.message()}`);
            dialog.dismiss();
        });
        page.on("request", (request) => {
            if (!request.url().startsWith(url) && !request.url().startsWith("data:image/svg+xml")) {
                faults.push(`another host: ${request.url()}`);
            }
        });
    };
    // Before a script of the page runs.
    await context.addInitScript(() =>
        addEventListener("securitypolicyviolation", (event) =>
            console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`),
        ),
    );
    const page = await context.newPage();
    watch(page);
    try {
        await page.goto(url);
        await body(page, context);
        assert.deepEqual(faults, []);
    } catch (error) {
        if (faults.length > 0) {
            error.message += `\nin the page: ${faults.join("\n")}`;
        }
        throw error;
    } finally {
        // What is still answered by a test is answered to nobody.
        await page.unrouteAll({ behavior: "ignoreErrors" });
        await context.close();
    }
}

/** The same, logged in. */
export const inside = (url, token, options, body) =>
    visit(url, options, async (page, context) => {
        await logIn(page, token);
        await body(page, context);
    });

export async function logIn(page, token) {
    await page.getByLabel("Admin token").fill(token);
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByRole("link", { name: "Overview" }).waitFor();
}

/** To a view, by its address. */
export async function open(page, url, hash) {
    await page.goto(`${url}/${hash}`);
    await page.locator("main h1").waitFor({ state: "attached" });
}

/** What the server says to whoever has a token: the page is held against it. */
export async function ask(url, path) {
    const response = await fetch(`${url}/${path}`, { headers: { Authorization: `Bearer ${setup.operator}` } });
    assert.equal(response.status, 200, await response.clone().text());
    return response.json();
}

export async function byNonce(url, nonce) {
    const { executions } = await ask(url, `executions?search=${encodeURIComponent(nonce)}`);
    const found = executions.filter((one) => one.nonce === nonce);
    assert.equal(found.length, 1, nonce);
    return ask(url, `executions/${found[0].id}`);
}

/** Has tests/it/page.rs do something. */
export async function control(what) {
    const response = await fetch(`${setup.control}/${what}`);
    assert.equal(response.status, 200, what);
}

/** Awaits that this becomes so, of which the page shows no single element. */
export async function until(what, isSo) {
    const deadline = Date.now() + PATIENCE;
    let last;
    while (!(last = await isSo())) {
        assert.ok(Date.now() < deadline, `${what} is awaited`);
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return last;
}

export const rows = (page) => page.locator("main tbody tr");

/** axe-core's rules, all of them: no violation, of whatever weight. */
export async function mustBeAccessible(page, what) {
    await page.evaluate(AXE);
    const found = await page.evaluate(async () => {
        const { violations } = await axe.run(document, { resultTypes: ["violations"] });
        return violations.map(
            ({ id, impact, nodes }) =>
                `${impact} ${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join(" | ")}`,
        );
    });
    assert.deepEqual(found, [], what);
}
