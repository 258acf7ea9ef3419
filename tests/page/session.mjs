// Who gets in, how, and for how long.

import assert from "node:assert/strict";
import { createServer, request } from "node:http";

import { PATIENCE, ask, byNonce, control, inside, logIn, rows, setup, test, until, visit } from "./support.mjs";

const { gate, closed, restarted } = setup;

test("somebody logs in and out by the keyboard alone", () =>
    visit(gate, {}, async (page) => {
        await page.getByRole("heading", { name: "Log in" }).waitFor();
        assert.equal(await page.evaluate(() => document.activeElement.name), "token", "one can type at once");
        await page.keyboard.type(setup.operator);
        await page.keyboard.press("Enter");
        await page.getByText("Verdicts per second").waitFor();
        await page.getByText("operator: reads and resolves").waitFor();
        assert.ok(!(await page.content()).includes(setup.operator), "the token is nowhere");
        await page.reload();
        await page.getByText("Verdicts per second").waitFor();
        for (let presses = 0; (await page.evaluate(() => document.activeElement.id)) !== "log-out"; presses += 1) {
            assert.ok(presses < 30, "a way to the button");
            await page.keyboard.press("Shift+Tab");
        }
        await page.keyboard.press("Enter");
        await page.getByText("You are logged out").waitFor();
        await page.reload();
        await page.getByRole("heading", { name: "Log in" }).waitFor();
    }));

test("a wrong token is refused, and another try is let in", () =>
    visit(gate, {}, async (page) => {
        await page.getByLabel("Admin token").fill("not-a-token-of-this-server");
        await page.keyboard.press("Enter");
        await page.getByRole("alert").getByText("not one of this server’s").waitFor();
        assert.equal(
            await page.evaluate(() => getSelection().toString().length + document.activeElement.value.length > 0),
            true,
        );
        await logIn(page, setup.reader);
        await page.getByText("reader: reads", { exact: false }).waitFor();
    }));

test("a server without a token says what to set", () =>
    visit(closed, { expected: [/status of 404 .*\/session$/] }, async (page) => {
        await page.getByRole("heading", { name: "This server has no admin token" }).waitFor();
        await page.getByText("OPENEXEC_ADMIN_READ_TOKEN").first().waitFor();
        assert.equal(await page.getByLabel("Admin token").count(), 0);
    }));

test("no script can read the session, and neither half of it is of use alone", () =>
    inside(gate, setup.operator, {}, async (page, context) => {
        assert.equal(await page.evaluate(() => document.cookie), "");
        const cookies = await context.cookies();
        assert.equal(cookies.length, 1);
        assert.deepEqual([cookies[0].httpOnly, cookies[0].sameSite, cookies[0].path], [true, "Strict", "/"]);
        const kept = await page.evaluate(() => ({ ...sessionStorage }));
        assert.deepEqual(Object.keys(kept), ["openexec-proof"]);
        assert.notEqual(kept["openexec-proof"], cookies[0].value);
        const get = (headers) => fetch(`${gate}/executions`, { headers }).then((response) => response.status);
        const cookie = `${cookies[0].name}=${cookies[0].value}`;
        const proof = kept["openexec-proof"];
        assert.equal(await get({ Cookie: cookie }), 401, "the cookie alone");
        assert.equal(await get({ "OpenExec-Session": proof }), 401, "the proof alone");
        assert.equal(await get({ Cookie: cookie, "OpenExec-Session": "0".repeat(proof.length) }), 401);
        assert.equal(await get({ Cookie: cookie, "OpenExec-Session": proof }), 200, "both");
        await page.getByRole("button", { name: "Log out" }).click();
        await page.getByText("You are logged out").waitFor();
        assert.equal(await get({ Cookie: cookie, "OpenExec-Session": proof }), 401, "afterwards");
        assert.deepEqual(await page.evaluate(() => Object.keys({ ...localStorage, ...sessionStorage })), []);
    }));

test("a page of another origin resolves nothing", async () => {
    const before = await byNonce(gate, "cross-origin");
    assert.equal(before.state, "UNKNOWN");
    const evil = createServer((_, response) =>
        response.setHeader("Content-Type", "text/html").end("<!doctype html><title>x</title>"),
    );
    await new Promise((resolve) => evil.listen(0, "127.0.0.1", resolve));
    const elsewhere = `http://127.0.0.1:${evil.address().port}`;
    try {
        await inside(gate, setup.operator, {}, async (_, context) => {
            // Another port of the same host: the browser sends the cookie there, and from there.
            const page = await context.newPage();
            await page.goto(elsewhere);
            const target = `${gate}/executions/${before.id}/resolve`;
            const seen = [];
            page.on("response", (response) => response.url() === target && seen.push(response.status()));
            const sent = await page.evaluate(async (target) => {
                const body = '{"outcome":"not_executed","by":"mallory"}';
                const how = { method: "POST", credentials: "include", body };
                const said = [];
                for (const more of [
                    { mode: "no-cors" },
                    { mode: "cors", headers: { "Content-Type": "application/json" } },
                    {
                        mode: "cors",
                        headers: { "Content-Type": "application/json", "OpenExec-Session": "0".repeat(64) },
                    },
                ]) {
                    said.push(
                        await fetch(target, { ...how, ...more }).then(
                            (response) => response.type,
                            () => "blocked",
                        ),
                    );
                }
                return said;
            }, target);
            assert.deepEqual(sent, ["opaque", "blocked", "blocked"]);
            assert.ok(seen.length > 0 && seen.every((status) => status >= 400), `${seen}`);
            // A form that takes the browser there.
            const moved = page.waitForResponse(target);
            await page.evaluate((target) => {
                const form = document.createElement("form");
                Object.assign(form, { action: target, method: "post", enctype: "text/plain" });
                const input = document.createElement("input");
                Object.assign(input, { name: '{"outcome":"not_executed","by":"', value: '"}' });
                form.append(input);
                document.body.append(form);
                form.submit();
            }, target);
            assert.ok((await moved).status() >= 400);
            // Nor is it shown in a frame, to be clicked at.
            const around = await context.newPage();
            await around.goto(elsewhere);
            await around.evaluate((gate) => {
                const frame = document.createElement("iframe");
                frame.src = gate;
                document.body.append(frame);
                return new Promise((resolve) => frame.addEventListener("load", resolve));
            }, gate);
            assert.equal(await around.frames()[1].getByText("OpenExec").count(), 0);
        });
    } finally {
        evil.close();
    }
    assert.equal((await ask(gate, `executions/${before.id}`)).state, "UNKNOWN");
});

test("what plain HTTP from another machine means is said, before a token is typed", async () => {
    const elsewhere = gate.replace("127.0.0.1", "elsewhere.test");
    // It says so of a header that counts on https:// only.
    await visit(elsewhere, { expected: [/Cross-Origin-Opener-Policy/] }, async (page) => {
        await page.getByText("whoever is on the way sees the token").waitFor();
        await logIn(page, setup.operator);
        const { id } = await byNonce(gate, "made-1");
        await page.goto(`${elsewhere}/#/executions/${id}`);
        await page.getByText("not checked: browsers compute hashes on https:// and on localhost only").waitFor();
    });
    await visit(gate, {}, async (page) => {
        await page.getByLabel("Admin token").waitFor();
        assert.equal(await page.getByText("whoever is on the way").count(), 0);
    });
});

test("a session that the server has forgotten leads back to the way in", () =>
    inside(restarted, setup.operator, { expected: [/status of 401/, /ERR_CONNECTION/] }, async (page) => {
        await page.goto(`${restarted}/#/configuration`);
        await page.getByRole("heading", { name: "Configuration" }).waitFor();
        await control("stop");
        await control("start");
        await page.getByText("The session has ended: log in again").waitFor();
        await logIn(page, setup.operator);
        await page.getByRole("heading", { name: "Configuration" }).waitFor();
        assert.match(page.url(), /#\/configuration$/, "where one was");
    }));

test("a server that goes away is said, the last that is known stays, and it comes back", () =>
    inside(
        restarted,
        setup.operator,
        { expected: [/status of 401/, /ERR_CONNECTION/, /ERR_EMPTY_RESPONSE/] },
        async (page) => {
            await page.goto(`${restarted}/#/executions`);
            await rows(page).first().waitFor();
            const shown = await rows(page).count();
            await control("stop");
            await page.getByText(/The server does not answer, since \d\d:\d\d:\d\d/).waitFor();
            assert.equal(await rows(page).count(), shown);
            assert.ok(Number(await page.locator("main").evaluate((main) => getComputedStyle(main).opacity)) < 1);
            assert.match(await page.title(), /no answer/);
            await page.getByRole("button", { name: "Try now" }).click();
            await control("start");
            await page.getByText("The server does not answer").waitFor({ state: "hidden" });
            // Its sessions went with it.
            await logIn(page, setup.operator);
            await rows(page).first().waitFor();
        },
    ));

test("a session is of one tab, and a log-in in another leaves it alone", () =>
    inside(gate, setup.operator, {}, async (page, context) => {
        const other = await context.newPage();
        other.setDefaultTimeout(PATIENCE);
        await other.goto(gate);
        await other.getByRole("heading", { name: "Log in" }).waitFor();
        await other.close();
        await page.reload();
        await page.getByText("Verdicts per second").waitFor();
    }));

test("a log-out that the server cannot be told is one here, and says so", () =>
    inside(gate, setup.operator, { expected: [/ERR_FAILED/] }, async (page) => {
        await page.goto(`${gate}/#/executions?search=made`);
        await rows(page).first().waitFor();
        await page.route("**/session", (route) => (route.request().method() === "DELETE" ? route.abort() : route.continue()));
        await page.getByRole("button", { name: "Log out" }).click();
        await page.getByText("the server could not be told").waitFor();
        assert.deepEqual(await page.evaluate(() => [Object.keys(sessionStorage).length, location.hash]), [0, "#/"]);
        // The next one sees nothing of what was there.
        await page.route("**/executions?*", (route) => route.abort());
        await logIn(page, setup.reader);
        await page.locator("nav").getByRole("link", { name: "Executions" }).click();
        await page.getByRole("alert").getByText("The server does not answer").waitFor();
        assert.equal(await rows(page).count(), 0);
    }));

test("a worker that something else left on the port is ended", async () => {
    const { hostname, port } = new URL(gate);
    let isOurs = false;
    const shared = createServer((incoming, outgoing) => {
        if (isOurs) {
            const { method, url, headers } = incoming;
            const asked = request({ hostname, port, method, path: url, headers }, (answer) => {
                outgoing.writeHead(answer.statusCode, answer.headers);
                answer.pipe(outgoing);
            });
            incoming.pipe(asked);
        } else if (incoming.url === "/sw.js") {
            const worker = `addEventListener("install", () => skipWaiting());
                addEventListener("activate", (event) => event.waitUntil(clients.claim()));
                addEventListener("fetch", (event) => event.respondWith(new Response("an old page")));`;
            outgoing.setHeader("Content-Type", "text/javascript").end(worker);
        } else {
            outgoing.setHeader("Content-Type", "text/html").end("<!doctype html><link rel=icon href=data:,><title>x</title>");
        }
    });
    await new Promise((resolve) => shared.listen(0, "127.0.0.1", resolve));
    const here = `http://127.0.0.1:${shared.address().port}`;
    try {
        await visit(here, {}, async (page) => {
            await page.evaluate(async () => {
                await navigator.serviceWorker.register("/sw.js");
                await navigator.serviceWorker.ready;
            });
            await page.goto(`${here}/#`);
            await page.reload();
            await page.getByText("an old page").waitFor();
            isOurs = true;
            await until("our own page", async () => {
                await page.reload();
                // A browser looks for a newer worker a second after it was used.
                await page.waitForTimeout(2_000);
                return (await page.getByText("an old page").count()) === 0;
            });
            await logIn(page, setup.reader);
        });
    } finally {
        shared.closeAllConnections();
        shared.close();
    }
});
