// For everybody: by keyboard, on a phone, in both themes, for screen readers.

import assert from "node:assert/strict";

import { byNonce, inside, mustBeAccessible, open, rows, setup, test, until, visit } from "./support.mjs";

const { gate, empty, closed } = setup;

/** Every view, each as it is when it has something to show. */
async function views(page, look) {
    const done = (await byNonce(gate, "made-1")).id;
    const unknown = (await byNonce(gate, "shown-unknown")).id;
    for (const hash of [
        "#/",
        "#/executions",
        `#/executions/${done}`,
        `#/executions/${unknown}?state=UNKNOWN`,
        "#/denials",
        "#/configuration",
    ]) {
        await open(page, gate, hash);
        await rows(page).first().waitFor({ state: "attached" });
        if (hash.includes(done) || hash.includes(unknown)) {
            await page.locator(".check", { hasText: "valid" }).waitFor();
        }
        await look(hash);
    }
    await open(page, gate, `#/executions/${unknown}`);
    await page.getByRole("button", { name: "Resolve" }).click();
    await page.getByLabel("It was done").check();
    await look("the dialog");
}

for (const colorScheme of ["light", "dark"]) {
    test(`axe finds nothing wrong with any view, ${colorScheme}`, async () => {
        await inside(gate, setup.operator, { colorScheme }, (page) =>
            views(page, (what) => mustBeAccessible(page, what)),
        );
        await inside(gate, setup.reader, { colorScheme, viewport: { width: 360, height: 740 } }, async (page) => {
            for (const hash of ["#/", "#/executions", "#/denials", "#/configuration"]) {
                await open(page, gate, hash);
                await rows(page).first().waitFor({ state: "attached" });
                await mustBeAccessible(page, `${hash} on a phone`);
            }
        });
        await inside(empty, setup.operator, { colorScheme }, async (page) => {
            await page.getByText("No executions yet").waitFor();
            await mustBeAccessible(page, "nothing yet");
        });
        await visit(gate, { colorScheme }, async (page) => {
            await page.getByLabel("Admin token").fill("wrong");
            await page.keyboard.press("Enter");
            await page.getByText("not one of this server’s").waitFor();
            await mustBeAccessible(page, "a wrong token");
        });
        await visit(closed, { colorScheme, expected: [/status of 404 .*\/session$/] }, async (page) => {
            await page.getByRole("heading", { name: "This server has no admin token" }).waitFor();
            await mustBeAccessible(page, "no token");
        });
    });
}

test("nothing is wider than a phone", () =>
    inside(gate, setup.operator, { viewport: { width: 360, height: 740 }, hasTouch: true }, (page) =>
        views(page, async (what) => {
            const width = await page.evaluate(() => {
                const wide = [...document.querySelectorAll("body *")].filter(
                    (one) => one.getBoundingClientRect().right > innerWidth + 0.5,
                );
                const shown = wide.filter((one) => one.checkVisibility() && !one.closest("pre, .unseen, thead, .cut"));
                return [
                    document.documentElement.scrollWidth - innerWidth,
                    shown.map((one) => one.outerHTML.slice(0, 80)),
                ];
            });
            assert.ok(width[0] <= 0 && width[1].length === 0, `${what}: ${JSON.stringify(width)}`);
        }),
    ));

test("a phone shows one execution instead of the list", () =>
    inside(gate, setup.operator, { viewport: { width: 360, height: 740 } }, async (page) => {
        await open(page, gate, "#/executions?search=made-");
        await rows(page).first().click();
        await page.getByRole("complementary").waitFor();
        assert.ok(!(await rows(page).first().isVisible()));
        await page.getByRole("button", { name: "Close" }).click();
        await rows(page).first().waitFor();
    }));

test("the keyboard gets everywhere, and one sees where it is", () =>
    inside(gate, setup.operator, {}, async (page) => {
        await open(page, gate, "#/executions?search=made-1");
        await rows(page).first().waitFor();
        await fromTheTop(page);
        const met = [];
        for (let presses = 0; presses < 40; presses += 1) {
            await page.keyboard.press("Tab");
            const at = await page.evaluate(() => {
                const element = document.activeElement;
                const shown = element.type === "radio" ? element.nextElementSibling : element;
                const { outlineStyle, outlineWidth } = getComputedStyle(shown);
                const { top, bottom } = shown.getBoundingClientRect();
                const isSeen =
                    outlineStyle !== "none" && parseFloat(outlineWidth) > 0 && bottom > 0 && top < innerHeight;
                return {
                    name: element.id || element.name || element.textContent.trim(),
                    isSeen,
                    isBody: element === document.body,
                };
            });
            if (at.isBody) {
                break;
            }
            assert.ok(at.isSeen, `the focus on ${at.name} is not seen`);
            met.push(at.name);
        }
        const wanted = ["Skip to the content", "pause", "log-out", "Overview", "state", "search", "action", "tenant"];
        let from = 0;
        for (const name of wanted) {
            const at = met.indexOf(name, from);
            assert.ok(at >= 0, `${name} behind the others: ${met}`);
            from = at + 1;
        }
        const first = await page.locator("main tbody .of-id").first().textContent();
        assert.ok(met.includes(first), "rows");
    }));

/** Where the keyboard begins on a page that was just opened. */
async function fromTheTop(page) {
    await page.evaluate(() => {
        document.body.tabIndex = -1;
        document.body.focus();
        document.body.removeAttribute("tabindex");
    });
}

test("the skip link leads to the content", () =>
    inside(gate, setup.operator, {}, async (page) => {
        await fromTheTop(page);
        await page.keyboard.press("Tab");
        await page.keyboard.press("Enter");
        assert.equal(await page.evaluate(() => document.activeElement.id), "main");
        assert.ok(!page.url().includes("#main"), "the view stays");
    }));

test("what is read and focused survives a refresh", () =>
    inside(gate, setup.operator, {}, async (page) => {
        await open(page, gate, "#/executions?state=UNKNOWN");
        await rows(page).first().waitFor();
        const link = page.locator("main tbody a").first();
        await link.focus();
        await link.evaluate((element) => (element.mark = "the same"));
        const said = await page.locator("#announce").textContent();
        for (let looks = 0; looks < 3; looks += 1) {
            await page.waitForResponse("**/executions?*");
        }
        assert.equal(await page.evaluate(() => document.activeElement.mark), "the same");
        assert.equal(await page.locator("#announce").textContent(), said, "not each look is read out");
        await until("still", () => link.isVisible());
    }));
