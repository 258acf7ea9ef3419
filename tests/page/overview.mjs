// What somebody sees first.

import assert from "node:assert/strict";

import { ask, control, inside, open, rows, setup, test, until, visit } from "./support.mjs";

const { gate, empty } = setup;

const number = async (page, verdict) => Number(await page.locator(`[data-verdict=${verdict}] .number`).textContent());

test("rates, times and limits are those of the metrics", () =>
    inside(gate, setup.operator, {}, async (page) => {
        await until(
            "two looks",
            async () => (await page.locator("[data-verdict=executed] .number").textContent()) !== "–",
        );
        await control("traffic");
        for (const verdict of ["executed", "replayed", "refused"]) {
            await until(verdict, async () => (await number(page, verdict)) > 0);
        }
        await page.getByText("unknown_action").waitFor();
        const times = page.locator("table.times tbody tr");
        for (const [at, name] of ["gate", "ledger", "service", "commit"].entries()) {
            await until(name, async () =>
                /(\d µs|\d ms|\d s).*(\d µs|\d ms|\d s)/.test(await times.nth(at).textContent()),
            );
            assert.ok((await times.nth(at).textContent()).startsWith(name));
        }
        for (const plot of await page.locator(".plot svg").all()) {
            await until("a line", async () => /^M\S+ \S+/.test(await plot.locator(".line").getAttribute("d")));
            assert.match(await plot.getAttribute("aria-label"), /now .*, at most .*/);
        }
        await page.locator("[data-verdict=executed] svg").hover();
        await page.getByText(/\/s at \d\d:\d\d:\d\d/).waitFor();
        await page.getByText(/\d of 1\u202f024/).waitFor();
        const metrics = await (await fetch(`${gate}/metrics`)).text();
        for (const [, name] of metrics.matchAll(/^openexec_upstream_addresses\{upstream="(\w+)",which="all"\} 1$/gm)) {
            await page.locator(".services").getByText(name).waitFor();
        }
    }));

test("what is unknown is the first thing to do", () =>
    inside(gate, setup.operator, {}, async (page) => {
        const { executions } = await ask(gate, "executions?state=UNKNOWN");
        const first = page.locator(".needs li").first();
        await first.getByText(`${executions.length} executions have an unknown outcome`).waitFor();
        assert.equal(await first.getAttribute("data-level"), "unknown");
        assert.match(await page.title(), new RegExp(`^${executions.length} unknown`));
        await first.getByRole("link").click();
        await until("all of them", async () => (await rows(page).count()) === executions.length);
        await page.getByRole("link", { name: `Executions ${executions.length} unknown` }).waitFor();
    }));

test("not ready is said with its reasons, in the page and in the tab", () =>
    inside(gate, setup.operator, { expected: [/status of 503 .*\/readyz$/] }, async (page) => {
        await page.locator("#ready", { hasText: /^✓ ready$/ }).waitFor();
        await page.route("**/readyz", (route) => route.fulfill({ status: 503, body: "ledger_full\nbypass_found\n" }));
        await page.locator("#ready", { hasText: "not ready: ledger_full, bypass_found" }).waitFor();
        await page.getByText("Not ready: the ledger's disk is full").waitFor();
        assert.match(await page.title(), /^not ready/);
        assert.match(await page.locator("#announce").textContent(), /not ready: ledger_full/);
        await page.unroute("**/readyz");
        await page.locator("#ready", { hasText: /^✓ ready$/ }).waitFor();
        assert.match(await page.locator("#announce").textContent(), /The server is ready/);
    }));

test("what is not known is not called good", () =>
    inside(gate, setup.operator, { expected: [/status of 502/] }, async (page) => {
        await page.locator("#ready", { hasText: /^✓ ready$/ }).waitFor();
        await page.route("**/readyz", (route) => route.fulfill({ status: 502, body: "" }));
        await page.locator("#ready", { hasText: "not ready: unknown" }).waitFor();
        await page.unroute("**/readyz");
        await page.locator("#ready", { hasText: /^✓ ready$/ }).waitFor();
        // Something in between that says yes to everything.
        await page.route("**/metrics", (route) => route.fulfill({ contentType: "text/html", body: "<p>log in</p>" }));
        await page.getByText("The server does not answer").waitFor();
        await page.unroute("**/metrics");
        await page.getByText("The server does not answer").waitFor({ state: "hidden" });
    }));

test("a server that has done nothing yet says so", () =>
    inside(empty, setup.operator, {}, async (page) => {
        await page.getByText("No executions yet").waitFor();
        await page.getByText("nothing in the last 30 s").waitFor();
        await page.getByText("No services: built-in actions only").waitFor();
        await open(page, empty, "#/executions");
        await page.getByText("No executions yet").waitFor();
        await page.getByLabel("UNKNOWN").check();
        await page.getByText("Nothing matches").waitFor();
        await open(page, empty, "#/denials");
        await page.getByText("Nothing refused yet").waitFor();
        await open(page, empty, "#/configuration");
        await page.getByText("demo: everything is approved").waitFor();
        await page.getByText("None: demo mode approves everything").waitFor();
    }));

test("it can be made to stand still", () =>
    inside(gate, setup.operator, {}, async (page) => {
        await rows(page).first().waitFor();
        await page.getByRole("button", { name: "Pause" }).click();
        // What was under way may still come.
        await page.waitForLoadState("networkidle");
        let asked = 0;
        page.on("request", () => (asked += 1));
        await page.waitForTimeout(5_000);
        assert.equal(asked, 0);
        await page.getByRole("button", { name: "Paused" }).click();
        await until("more", () => asked > 0);
    }));

test("the theme is the system's, or what was chosen here", () =>
    visit(gate, { colorScheme: "dark" }, async (page) => {
        const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
        const dark = await ground();
        await page.getByLabel("Theme").selectOption("light");
        const light = await ground();
        assert.notEqual(light, dark);
        await page.reload();
        await page.getByRole("heading", { name: "Log in" }).waitFor();
        assert.equal(await ground(), light);
        await page.getByLabel("Theme").selectOption("");
        assert.equal(await ground(), dark);
    }));
