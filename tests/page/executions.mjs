// Finding executions, looking at one, and settling what nobody knows.

import assert from "node:assert/strict";

import { ask, byNonce, control, inside, open, rows, setup, test, until } from "./support.mjs";

const { gate } = setup;

const states = (page) => page.locator("main tbody .pill").allTextContents();
const nonces = (page) => page.locator("main tbody .of-nonce").allTextContents();

test("the list is filtered by state, action and tenant, and its address says so", () =>
    inside(gate, setup.operator, {}, async (page) => {
        await open(page, gate, "#/executions");
        await rows(page).nth(49).waitFor();
        await page.getByLabel("NOT_EXECUTED").check();
        await until(
            "those only",
            async () =>
                (await states(page)).length > 0 && (await states(page)).every((word) => word.includes("NOT_EXECUTED")),
        );
        assert.match(page.url(), /state=NOT_EXECUTED/);
        await page.getByRole("radio", { name: "All" }).check();
        await page.getByLabel("Action").fill("payments.refund");
        const actions = () => page.locator("main tbody .of-action").allTextContents();
        await until(
            "refunds only",
            async () =>
                (await actions()).length > 0 && (await actions()).every((action) => action === "payments.refund"),
        );
        await page.getByLabel("Tenant").fill("mail");
        await page.getByText("Nothing matches").waitFor();
        await page.getByRole("button", { name: "Show all" }).click();
        await rows(page).nth(49).waitFor();
        await page.getByLabel("Tenant").fill("mail");
        await until("its only", async () => {
            const tenants = await page.locator("main tbody .of-tenant").allTextContents();
            return tenants.length > 0 && tenants.every((tenant) => tenant === "mail");
        });
        // Another browser finds the same there.
        await page.reload();
        await rows(page).first().waitFor();
        assert.equal(await page.getByLabel("Tenant").inputValue(), "mail");
    }));

test("the search finds what has these letters anywhere, and / leads to it", () =>
    inside(gate, setup.operator, {}, async (page) => {
        await page.getByText("Verdicts per second").waitFor();
        // As fast as a browser under load delivers keys: before it gets round to any event of its own.
        await page.evaluate(() => {
            document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "/", bubbles: true, cancelable: true }));
            document.activeElement.value = "shown-unk";
            document.activeElement.dispatchEvent(new InputEvent("input", { bubbles: true }));
        });
        await until("it", async () => (await nonces(page)).join() === "shown-unknown");
        await page.goBack();
        await page.getByText("Verdicts per second").waitFor();
        await page.keyboard.press("/");
        await page.keyboard.type("shown-unk");
        await until("it, typed", async () => (await nonces(page)).join() === "shown-unknown");
        const { id, action_hash, approval_id } = await byNonce(gate, "shown-unknown");
        for (const words of [id, id.slice(9, 23), action_hash.slice(20, 40), approval_id]) {
            await page.getByLabel("Search").fill(words);
            await until(
                words,
                async () =>
                    page.url().includes(encodeURIComponent(words)) && (await nonces(page)).join() === "shown-unknown",
            );
        }
        for (const words of ["100%", "a&b=c", "é+"]) {
            await page.getByLabel("Search").fill(words);
            await page.getByText("Nothing matches").waitFor();
        }
    }));

test("older pages come behind, and the list stands still meanwhile", () =>
    inside(gate, setup.operator, {}, async (page) => {
        await open(page, gate, "#/executions");
        await rows(page).nth(49).waitFor();
        assert.equal(await rows(page).count(), 50);
        await page.getByRole("button", { name: "Older" }).click();
        await rows(page).nth(99).waitFor();
        const ids = await page.locator("main tbody .of-id").allTextContents();
        assert.equal(new Set(ids).size, 100, "none twice");
        await page.getByText("not live").waitFor();
        await control("traffic");
        await page.waitForResponse("**/readyz");
        assert.deepEqual(await page.locator("main tbody .of-id").allTextContents(), ids);
        await page.getByRole("button", { name: "Back to the newest" }).click();
        await until(
            "the newest",
            async () =>
                (await rows(page).count()) === 50 &&
                !ids.includes(await page.locator("main tbody .of-id").first().textContent()),
        );
        // It is live again.
        const newest = await page.locator("main tbody .of-id").first().textContent();
        await control("traffic");
        await until(
            "newer ones",
            async () => (await page.locator("main tbody .of-id").first().textContent()) !== newest,
        );
    }));

test("a search that finds little offers to go on", () =>
    inside(gate, setup.operator, {}, async (page) => {
        const asked = [];
        await page.route("**/executions?*search=rare*", (route) => {
            asked.push(new URL(route.request().url()).searchParams.get("before"));
            const isFirst = asked.at(-1) === null;
            route.fulfill({ json: isFirst ? { executions: [], next: "behind-this" } : { executions: [], next: null } });
        });
        await open(page, gate, "#/executions?search=rare");
        await page.getByText("Nothing matches among the newest").waitFor();
        await page.getByRole("button", { name: "Search older ones" }).click();
        await page.getByText("Nothing matches", { exact: true }).waitFor();
        assert.equal(asked.at(-1), "behind-this");
    }));

test("an execution is opened by click and by key, and closed with Escape", () =>
    inside(gate, setup.operator, {}, async (page) => {
        await open(page, gate, "#/executions?search=made-");
        await rows(page).nth(9).waitFor();
        const detail = page.getByRole("complementary");
        const id = (at) => page.locator("main tbody .of-id").nth(at).textContent();
        await rows(page).nth(2).locator(".of-action").click();
        await detail.getByText(await id(2)).waitFor();
        assert.equal(await page.evaluate(() => document.activeElement.tagName), "H2", "what is read out begins there");
        await page.keyboard.press("Escape");
        await detail.waitFor({ state: "hidden" });
        assert.equal(await page.evaluate(() => document.activeElement.textContent), await id(2), "where one was");
        await page.keyboard.press("ArrowDown");
        assert.equal(await page.evaluate(() => document.activeElement.textContent), await id(3));
        await page.keyboard.press("Enter");
        await detail.getByText(await id(3)).waitFor();
        assert.ok(page.url().includes(await id(3)), "an address to share");
        await page.reload();
        await detail.getByText(await id(3)).waitFor();
        await page.goBack();
        await detail.waitFor({ state: "hidden" });
    }));

test("an execution that there is not is said to be none", () =>
    inside(gate, setup.operator, { expected: [/status of 404/] }, async (page) => {
        await page.goto(`${gate}/#/executions/no-such-id`);
        await page.getByText("No execution has this id").waitFor();
    }));

test("a detail has everything, and its receipt is checked in the browser", () =>
    inside(gate, setup.operator, {}, async (page) => {
        const done = await byNonce(gate, "made-1");
        await open(page, gate, `#/executions/${done.id}`);
        const detail = page.getByRole("complementary");
        await detail.getByText("valid: this is the result of that execution").waitFor();
        const text = await detail.textContent();
        for (const known of [
            done.id,
            done.nonce,
            done.tenant,
            done.approval_id,
            done.key_id,
            done.action_hash,
            done.route,
            done.receipt,
        ]) {
            assert.ok(text.includes(known), known);
        }
        const times = await detail.locator("time").evaluateAll((all) => all.map((time) => time.dateTime));
        assert.deepEqual(
            times,
            [done.claimed_at, done.settled_at].map((time) => new Date(time).toISOString()),
        );
        assert.match(await detail.locator("time").first().getAttribute("title"), / UTC$/);
        const shown = await detail.getByRole("region", { name: "the result" }).textContent();
        assert.equal(shown.replace(/\s/g, ""), done.result.replace(/\s/g, ""));
    }));

test("a result that was tampered with is told", () =>
    inside(gate, setup.operator, {}, async (page) => {
        const done = await byNonce(gate, "made-1");
        await page.route(`**/executions/${done.id}`, async (route) => {
            const response = await route.fetch();
            const document = await response.json();
            document.result = document.result.replace(/\d/, (digit) => (Number(digit) + 1) % 10);
            assert.notEqual(document.result, done.result);
            await route.fulfill({ response, json: document });
        });
        await open(page, gate, `#/executions/${done.id}`);
        await page.getByText("NOT valid: id, result and receipt do not belong together").waitFor();
    }));

test("the hash that was approved is checked against the payload", () =>
    inside(gate, setup.operator, {}, async (page) => {
        const unknown = await byNonce(gate, "shown-unknown");
        await open(page, gate, `#/executions/${unknown.id}`);
        await page.getByText("valid: it is of this action and this payload").waitFor();
        await page.route(`**/executions/${unknown.id}`, async (route) => {
            const response = await route.fetch();
            const document = await response.json();
            await route.fulfill({ response, json: { ...document, payload: document.payload.replace("{", '{"a":1,') } });
        });
        await page.reload();
        await page.getByText("NOT valid: it is of another action or payload").waitFor();
    }));

test("an operator gives the result of an unknown one, and the client's retry gets it", () =>
    inside(gate, setup.operator, { expected: [/status of 422/] }, async (page) => {
        const unknown = await byNonce(gate, "resolve-done");
        assert.equal(unknown.state, "UNKNOWN");
        await open(page, gate, `#/executions/${unknown.id}?state=UNKNOWN`);
        await page.getByRole("button", { name: "Resolve" }).click();
        const dialog = page.getByRole("dialog");
        await dialog.getByText("Look first where the action has its effects").waitFor();
        await dialog.getByLabel("Who says so").fill("ada");
        await dialog.getByLabel("It was done").check();
        const send = dialog.getByRole("button", { name: "Record this outcome" });
        const result = dialog.getByRole("textbox", { name: "Result" });
        await send.click();
        await dialog.getByText("A result is needed").waitFor();
        await result.fill('{"amount": 1');
        await send.click();
        await dialog.getByText("This is no JSON").waitFor();
        // What only the server finds.
        const refused = page.waitForResponse("**/resolve");
        await result.fill('{"amount": 1, "amount": 2}');
        await send.click();
        assert.equal((await refused).status(), 422);
        await dialog.getByText("invalid_request").waitFor();
        await result.fill('{"amount": 12345678901234567890, "share": 0.1}');
        await send.click();
        await dialog.waitFor({ state: "detached" });
        await page.getByText("valid: this is the result of that execution").waitFor();
        await page.getByText("operator: ada").waitFor();
        await until("the list knows", async () => !(await nonces(page)).includes("resolve-done"));
        const resolved = await ask(gate, `executions/${unknown.id}`);
        assert.deepEqual([resolved.state, resolved.settled_by], ["DONE", "operator: ada"]);
        assert.equal(resolved.result, '{"amount": 12345678901234567890, "share": 0.1}', "every digit");
    }));

test("an operator says that nothing happened, by the keyboard", () =>
    inside(gate, setup.operator, {}, async (page) => {
        const unknown = await byNonce(gate, "resolve-not");
        await open(page, gate, `#/executions/${unknown.id}`);
        await page.getByRole("button", { name: "Resolve" }).focus();
        await page.keyboard.press("Enter");
        await page.keyboard.type("grace");
        await page.keyboard.press("Tab");
        await page.keyboard.press("ArrowUp");
        assert.equal(await page.evaluate(() => document.activeElement.value), "not_executed");
        // The first Escape leaves the dialog only.
        await page.keyboard.press("Escape");
        await page.getByRole("dialog").waitFor({ state: "detached" });
        assert.match(await page.evaluate(() => document.activeElement.textContent), /Resolve/);
        await page.keyboard.press("Enter");
        await page.keyboard.type("grace");
        await page.keyboard.press("Tab");
        await page.keyboard.press("ArrowUp");
        await page.keyboard.press("Enter");
        await page.getByText("operator: grace").waitFor();
        const resolved = await ask(gate, `executions/${unknown.id}`);
        assert.deepEqual([resolved.state, resolved.settled_by], ["NOT_EXECUTED", "operator: grace"]);
        assert.match(await page.locator("#announce").textContent(), /NOT_EXECUTED/);
    }));

test("what somebody else resolved meanwhile is refused with the reason", () =>
    inside(gate, setup.operator, { expected: [/status of 409/] }, async (page) => {
        const unknown = await byNonce(gate, "resolve-twice");
        await open(page, gate, `#/executions/${unknown.id}`);
        await page.getByRole("button", { name: "Resolve" }).click();
        const resolve = () =>
            fetch(`${gate}/executions/${unknown.id}/resolve`, {
                method: "POST",
                headers: { Authorization: `Bearer ${setup.operator}`, "Content-Type": "application/json" },
                body: '{"outcome":"not_executed","by":"grace"}',
            });
        assert.equal((await resolve()).status, 200);
        await page.getByLabel("Who says so").fill("ada");
        await page.getByLabel("It was not executed").check();
        await page.getByRole("button", { name: "Record this outcome" }).click();
        await page.getByRole("alert").getByText("only an UNKNOWN one can be resolved").waitFor();
        await page.keyboard.press("Escape");
        await page.getByText("operator: grace").waitFor();
    }));

test("a reader resolves nothing, and is told why", () =>
    inside(gate, setup.reader, { expected: [/status of 403/] }, async (page) => {
        const unknown = await byNonce(gate, "shown-unknown");
        await open(page, gate, `#/executions/${unknown.id}`);
        await page.getByText("This session may read, and not resolve").waitFor();
        assert.equal(await page.getByRole("button", { name: "Resolve" }).count(), 0);
        // Nor by going round the page.
        const status = await page.evaluate(async (id) => {
            const headers = {
                "Content-Type": "application/json",
                "OpenExec-Session": sessionStorage.getItem("openexec-proof"),
            };
            const body = '{"outcome":"not_executed","by":"x"}';
            return (await fetch(`executions/${id}/resolve`, { method: "POST", headers, body })).status;
        }, unknown.id);
        assert.equal(status, 403);
        assert.equal((await byNonce(gate, "shown-unknown")).state, "UNKNOWN");
    }));

test("what was found before is not shown as the answer to another search", () =>
    inside(gate, setup.operator, { expected: [/ERR_FAILED/] }, async (page) => {
        await open(page, gate, "#/executions");
        await rows(page).nth(49).waitFor();
        const held = [];
        await page.route("**/executions?*search*", (route) => held.push(route));
        await page.getByRole("searchbox", { name: "Search" }).fill("zzz-nothing");
        await page.getByText("Looking …").waitFor();
        await page.locator("main .old tbody").waitFor();
        await until("a search", () => held.length > 0);
        for (const route of held) {
            await route.abort();
        }
        await page.getByRole("alert").getByText("The server does not answer").waitFor();
        assert.equal(await page.getByText("50 shown").count(), 0);
    }));

test("nobody resolves one while looking at another", () =>
    inside(gate, setup.operator, {}, async (page) => {
        const [unknown, done] = [await byNonce(gate, "shown-unknown"), await byNonce(gate, "made-1")];
        await open(page, gate, `#/executions/${done.id}`);
        await page.goto(`${gate}/#/executions/${unknown.id}`);
        await page.getByRole("button", { name: "Resolve" }).click();
        await page.goBack();
        await page.getByRole("dialog").waitFor({ state: "detached" });
        await page.locator(".detail").getByText(done.id).waitFor();
        assert.equal((await byNonce(gate, "shown-unknown")).state, "UNKNOWN");
    }));

test("an answer that is no execution is not drawn as one", () =>
    inside(gate, setup.operator, {}, async (page) => {
        await page.route("**/executions/x", (route) => route.fulfill({ contentType: "text/html", body: "<p>hello</p>" }));
        await open(page, gate, "#/executions/x");
        await page.getByRole("heading", { name: "Not known now" }).waitFor();
    }));

test("a ledger that cannot be read is said, and what was read stays", () =>
    inside(gate, setup.operator, { expected: [/status of 503/] }, async (page) => {
        await open(page, gate, "#/executions");
        await rows(page).nth(49).waitFor();
        const problem = { code: "ledger_unavailable", detail: "The ledger cannot be read or written now", status: 503 };
        await page.route("**/executions?*", (route) =>
            route.fulfill({ status: 503, contentType: "application/problem+json", json: problem }),
        );
        await page.getByRole("alert").getByText("The ledger cannot be read or written now").waitFor();
        assert.equal(await rows(page).count(), 50);
        await page.unroute("**/executions?*");
        await page.getByRole("button", { name: "Try again" }).click();
        await page.getByText("The ledger cannot be read").waitFor({ state: "detached" });
    }));

test("refused requests are listed, by tenant", () =>
    inside(gate, setup.reader, {}, async (page) => {
        await open(page, gate, "#/denials");
        await until("some", async () => (await rows(page).count()) > 1);
        await page.getByText("approval_already_used").first().waitFor();
        await page.getByText("action_not_allowed").first().waitFor();
        await page.getByLabel("Tenant").fill("mail");
        await until("its only", async () => {
            const tenants = await page.locator("main tbody .of-tenant").allTextContents();
            return tenants.length > 0 && tenants.every((tenant) => tenant === "mail");
        });
        await page.getByLabel("Tenant").fill("nobody");
        await page.getByText("Nothing matches").waitFor();
    }));

test("the configuration is there with the ages of its keys", () =>
    inside(gate, setup.reader, {}, async (page) => {
        await open(page, gate, "#/configuration");
        const status = await ask(gate, "status");
        await page.getByText("clawshield").waitFor();
        const text = await page.locator("main").textContent();
        for (const { name } of [
            ...status.upstreams,
            ...status.actions.filter((action) => /^[\w.]+$/.test(action.name)),
        ]) {
            assert.ok(text.includes(name), name);
        }
        const key = (name) => page.locator("main tr", { hasText: name });
        assert.match(await key("desk-2026").textContent(), /active.*9 d.*40 d/);
        assert.match(await key("desk-2025").textContent(), /retired.*30 d ago/);
        await page.getByRole("link", { name: "payments.refund" }).click();
        await until(
            "its executions",
            async () => (await rows(page).count()) > 0 && page.url().endsWith("#/executions?action=payments.refund"),
        );
    }));
