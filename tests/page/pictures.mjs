// The pictures of the README, of a server that has something to do.

import { mkdirSync, statSync } from "node:fs";
import assert from "node:assert/strict";

import { ask, inside, open, rows, setup, test } from "./support.mjs";

const { pictures } = setup;
const MOST = 200_000;

mkdirSync(pictures.directory, { recursive: true });

test(
    "pictures are taken",
    () =>
        inside(pictures.url, setup.operator, { colorScheme: "light" }, async (page) => {
            // So that the plots have something to show.
            await page.waitForTimeout(pictures.seconds * 1e3);
            await take(page, "status-light");
            await page.emulateMedia({ colorScheme: "dark", reducedMotion: "reduce" });
            await take(page, "status-dark");
            await page.emulateMedia({ colorScheme: "light", reducedMotion: "reduce" });
            await page.setViewportSize({ width: 390, height: 844 });
            await take(page, "status-phone");
            await page.setViewportSize({ width: 1280, height: 660 });
            const { executions } = await ask(pictures.url, "executions?action=payments.refund&state=DONE&limit=1");
            await open(page, pictures.url, `#/executions/${executions[0].id}?action=payments.refund`);
            await rows(page).first().waitFor();
            await page.locator(".check", { hasText: "valid" }).waitFor();
            await take(page, "execution");
        }),
    pictures.seconds * 1e3 + 120_000,
);

async function take(page, name) {
    const path = `${pictures.directory}/${name}.png`;
    await page.evaluate(() => document.activeElement?.blur());
    await page.waitForResponse("**/readyz");
    await page.waitForLoadState("networkidle");
    await page.screenshot({ path });
    assert.ok(statSync(path).size < MOST, `${name} is small`);
}
