// What clients chose is shown as text, and as nothing else. That no dialog, no request to another host and no violation of
// the policy came about is what `visit` holds in every test.

import assert from "node:assert/strict";

import { ask, byNonce, inside, open, rows, setup, test, until } from "./support.mjs";

const { gate, hostile } = setup;

const visible = (text) =>
    text.replace(/[\u0000-\u001f\u202e\u200b]/gu, (unit) => `\\u{${unit.codePointAt(0).toString(16)}}`);

/** Nothing but what the page itself made. */
async function mustBeText(page) {
    const made = await page.evaluate(() => ({
        images: document.querySelectorAll("img, iframe, object, embed, video, audio").length,
        scripts: [...document.scripts].map((script) => script.getAttribute("src")),
        handlers: [...document.querySelectorAll("*")].filter((one) =>
            [...one.attributes].some(({ name }) => name.startsWith("on")),
        ).length,
        links: [...document.querySelectorAll("[href]")]
            .map((link) => link.href)
            .filter((href) => !/^https?:|^data:image\/svg/.test(href)),
        marked: globalThis.marked ?? null,
    }));
    assert.deepEqual(made, {
        images: 0,
        scripts: ["assets/theme.js", "assets/app.js"],
        handlers: 0,
        links: [],
        marked: null,
    });
}

test("names, nonces, payloads and results that mean harm are text in every view", () =>
    inside(gate, setup.operator, {}, async (page) => {
        assert.ok(hostile.length >= 5);
        for (const { action, nonce } of hostile) {
            const { id } = await byNonce(gate, nonce);
            await open(page, gate, `#/executions?search=${encodeURIComponent(nonce)}`);
            await until(
                "the row",
                async () => (await page.locator("main tbody .of-nonce").allTextContents()).join() === visible(nonce),
            );
            assert.equal(await page.locator("main tbody .of-action").textContent(), visible(action));
            await mustBeText(page);
            await rows(page).first().locator(".of-action").click();
            const detail = page.getByRole("complementary");
            await detail.getByText(id).waitFor();
            assert.equal(await detail.locator("h2").textContent(), visible(action));
            await until("its check", async () => /valid/.test(await detail.locator(".check").first().textContent()));
            assert.ok(!(await detail.textContent()).includes("NOT valid"));
            await mustBeText(page);
            const filtered = `#/executions?action=${encodeURIComponent(action)}`;
            await open(page, gate, filtered);
            await until("by its action", async () => (await rows(page).count()) === 1);
        }
        for (const view of ["#/", "#/denials", "#/configuration"]) {
            await open(page, gate, view);
            await rows(page).first().waitFor();
            await mustBeText(page);
        }
    }));

test("an unknown one that means harm can be looked at and resolved like any other", () =>
    inside(gate, setup.operator, {}, async (page) => {
        const { action, nonce } = setup.hostileUnknown;
        const { id } = await byNonce(gate, nonce);
        await open(page, gate, `#/executions/${id}`);
        await page.getByRole("region", { name: "the payload" }).getByText("onerror").waitFor();
        await page.getByRole("button", { name: "Resolve" }).click();
        assert.ok((await page.getByRole("dialog").getByRole("heading").textContent()).includes(visible(action)));
        await page.getByLabel("Who says so").fill("<script>marked = 1</script>");
        await page.getByLabel("It was done").check();
        await page
            .getByRole("textbox", { name: "Result" })
            .fill('{"<img src=x onerror=marked=1>": "</pre><script>marked=1</script>\\u202e"}');
        await page.getByRole("button", { name: "Record this outcome" }).click();
        await page.getByText("operator: <script>").waitFor();
        await page.getByText("valid: this is the result of that execution").waitFor();
        await mustBeText(page);
        assert.equal((await ask(gate, `executions/${id}`)).state, "DONE");
    }));

test("an address that means harm is a filter or nothing", () =>
    inside(gate, setup.operator, { expected: [/status of 404/, /status of 422/] }, async (page) => {
        for (const hash of [
            "#/executions/<img src=x onerror=marked=1>",
            "#/executions/%",
            "#/executions/..%2f..%2fmetrics",
            "#/executions?state=<script>&search=<img src=x onerror=marked=1>&action=javascript:alert(1)",
            "#/constructor",
            "#/__proto__",
            "#javascript:alert(1)",
        ]) {
            await open(page, gate, hash);
            await page.waitForResponse("**/readyz");
            await mustBeText(page);
        }
        await open(page, gate, "#/executions");
        await rows(page).first().waitFor();
    }));
