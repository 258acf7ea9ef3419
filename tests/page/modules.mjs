// What the page computes, without a browser. tests/it/page.rs runs it on a copy of the assets.

import assert from "node:assert/strict";
import { createHash, webcrypto } from "node:crypto";
import { readFileSync } from "node:fs";
import test from "node:test";
import { pathToFileURL } from "node:url";

// As browsers have it; Node.js since its version 19.
globalThis.crypto ??= webcrypto;

const load = (name) => import(pathToFileURL(`${process.env.OPENEXEC_PAGE_ASSETS}/${name}`).href);
const { Series } = await load("metrics.js");
const { Looks } = await load("looks.js");
const { asciiString, indented, problemOf } = await load("json.js");
const { isActionHashOf, isReceiptOf } = await load("receipt.js");
const { attention } = await load("attention.js");
const { ago, bytes, grouped, latency, printable, rate, span } = await load("text.js");
const { body } = await load("resolve.js");

const TEXT = `# HELP a_total What is counted
# TYPE a_total counter
a_total{reason="x",verdict="refused"} 3
a_total{reason="y",verdict="refused"} 4
a_totals 9
t_seconds_bucket{le="0.1"} 5
t_seconds_bucket{le="0.2"} 10
t_seconds_bucket{le="+Inf"} 10
rubbish
rubbish 1 2 3
`;

test("series are read and summed by a label", () => {
    const series = Series.parse(TEXT);
    assert.equal(series.sum("a_total"), 7);
    assert.equal(series.sum("a_total", { reason: "x" }), 3);
    assert.deepEqual(
        [...series.by("a_total", "reason")],
        [
            ["x", 3],
            ["y", 4],
        ],
    );
    assert.equal(series.get("nowhere"), 0);
    assert.equal(series.get("rubbish"), 0);
    assert.ok(!series.has("nowhere") && series.has("a_totals"));
});

test("labels may hold anything that the format can spell", () => {
    const series = Series.parse('n{a="} 1 \\" \\\\ \\n",__proto__="p"} 2.5e3\nn{a="é"} +Inf\n');
    const [one, two] = series.of("n");
    assert.deepEqual([one.labels.a, one.labels["__proto__"], one.value], ['} 1 " \\ \n', "p", 2500]);
    assert.deepEqual([two.labels.a, two.value], ["é", Infinity]);
});

test("what was counted since a look survives a restart", () => {
    const since = Series.parse("a_total 3\nb_total 4\n").since(Series.parse("a_total 10\nb_total 1\n"));
    assert.deepEqual([since.get("a_total"), since.get("b_total")], [3, 3]);
});

test("quantiles are Prometheus' own", () => {
    const series = Series.parse(TEXT);
    assert.equal(series.quantile("t_seconds", 0.5), 0.1);
    assert.equal(series.quantile("t_seconds", 0.75), 0.15000000000000002);
    assert.equal(series.quantile("t_seconds", 1), 0.2);
    assert.equal(series.quantile("none", 0.5), null);
    const over = Series.parse('t_bucket{le="1"} 0\nt_bucket{le="+Inf"} 2\n');
    assert.equal(over.quantile("t", 0.5), 1, "the last bound that is known");
});

test("rates are of the last looks, and a history is of each", () => {
    const looks = new Looks();
    assert.equal(looks.window(), null);
    assert.ok(looks.isEmpty && looks.last.get("n") === 0);
    const add = (second, count) => looks.add(second * 1e3, Series.parse(`n ${count}\n`));
    add(0, 1_000);
    assert.equal(looks.window(), null, "one look is no rate");
    for (let second = 2; second <= 40; second += 2) {
        add(second, second <= 10 ? 1_000 + second : 1_010 + (second - 10) * 3);
    }
    const { since, seconds } = looks.window();
    assert.deepEqual([seconds, since.get("n")], [30, 90], "fifteen looks, three a second");
    const history = looks.history((step, seconds) => step.get("n") / seconds);
    assert.deepEqual(
        [history[0], history.at(-1)],
        [
            { at: 2_000, value: 1 },
            { at: 40_000, value: 3 },
        ],
    );
    add(40, 5_000);
    assert.equal(looks.history(() => 1).at(-1).value, null, "no time went by");
    for (let second = 42; second < 1_000; second += 2) {
        add(second, second);
    }
    assert.equal(looks.history(() => 1).length, 150);
});

test("receipts are checked as the gate makes them", async () => {
    const sha256 = (text) => createHash("sha256").update(text, "utf8").digest("hex");
    const [id, result] = ["01a2", '{"amount": 12.5, "who": "\\u00e9"}'];
    const receipt = sha256(`${id}:${result}`);
    assert.ok(await isReceiptOf(id, result, receipt));
    assert.ok(!(await isReceiptOf(id, `${result} `, receipt)));
    assert.ok(!(await isReceiptOf("01a3", result, receipt)));
    assert.ok(!(await isReceiptOf(id, result, receipt.toUpperCase())));
});

test("receipts and action hashes are those of the protocol's vectors", async () => {
    const vectors = (name) => JSON.parse(readFileSync(`${process.env.OPENEXEC_PAGE_VECTORS}/${name}`, "utf8"));
    const receipts = vectors("receipts.json");
    for (const { name, id, result_text, receipt } of receipts) {
        assert.ok(await isReceiptOf(id, result_text, receipt), name);
    }
    const hashes = vectors("canonical.json");
    for (const { name, canonical, action_hash } of hashes) {
        const { action } = JSON.parse(canonical);
        const head = `{"action":${asciiString(action)},"payload":`;
        assert.ok(canonical.startsWith(head), name);
        const payload = canonical.slice(head.length, -1);
        assert.ok(await isActionHashOf(action, payload, action_hash), name);
        assert.ok(!(await isActionHashOf(`${action}x`, payload, action_hash)), name);
    }
    assert.ok(receipts.length > 5 && hashes.length > 5);
});

test("strings are spelled as canonical text spells them", () => {
    assert.equal(
        asciiString('a"\\/\b\f\n\r\t\u0001\u007fé😀'),
        '"a\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u007f\\u00e9\\ud83d\\ude00"',
    );
});

test("JSON gets lines and keeps its digits", () => {
    const text = '{"a": 1.50, "b": [1e400, -0, {}, []], "c:{,}\\"": "x,y:[z", "d": 12345678901234567890}';
    const lines = indented(text);
    assert.equal(
        lines,
        '{\n  "a": 1.50,\n  "b": [\n    1e400,\n    -0,\n    {},\n    []\n  ],\n  "c:{,}\\"": "x,y:[z",\n  "d": 12345678901234567890\n}',
    );
    for (const broken of ['{"a', "]]]", "[1,", '"\\', ""]) {
        assert.equal(typeof indented(broken), "string");
    }
    assert.equal(problemOf(' {"a": 1} '), null);
    assert.match(problemOf("{a: 1}"), /no JSON/);
    assert.match(problemOf("  "), /needed/);
});

test("an operator's result goes as it was typed", () => {
    const text = body("done", 'ada "x"', '{"amount": 12.50, "n": 12345678901234567890}');
    assert.equal(text, '{"outcome":"done","result":{"amount": 12.50, "n": 12345678901234567890},"by":"ada \\"x\\""}');
    assert.equal(body("not_executed", "ada", "ignored"), '{"outcome":"not_executed","by":"ada"}');
});

test("what somebody else wrote cannot turn the text around or hide", () => {
    assert.equal(printable("a\u202eb\u200bc\nd\u2066\ufeff"), "a\\u{202e}b\\u{200b}c\\u{a}d\\u{2066}\\u{feff}");
    assert.equal(printable("x\u{e0041}\u2800\u00a0\u3000y\u{e0100}"), "x\\u{e0041}\\u{2800}\\u{a0}\\u{3000}y\\u{e0100}");
    assert.equal(printable("<b>é 漢 😀</b>"), "<b>é 漢 😀</b>");
    assert.equal(printable("\ud800"), "\ufffd");
    assert.deepEqual([null, undefined, "", 0].map(printable), ["–", "–", "–", "0"]);
});

test("numbers are those of the terminal's view", () => {
    assert.deepEqual([0.000_25, 0.0123, 2.34, null].map(latency), ["250 µs", "12.3 ms", "2.3 s", "–"]);
    assert.deepEqual([0, 12.34, 1234.5, null].map(rate), ["0.0", "12.3", "1\u202f235", "–"]);
    assert.deepEqual([2048, 256 << 20].map(bytes), ["2 KiB", "256 MiB"]);
    assert.deepEqual([1, 999, 1000, 1234567].map(grouped), ["1", "999", "1\u202f000", "1\u202f234\u202f567"]);
    assert.deepEqual([500, 2_500, 90_000, 90 * 60_000, 5 * 86_400_000].map(span), [
        "500 ms",
        "2.5 s",
        "90 s",
        "90 min",
        "5 d",
    ]);
    assert.deepEqual([ago(0, 1_000), ago(0, 3_900), ago(0, 60_000)], ["just now", "3 s ago", "60 s ago"]);
});

test("what needs somebody is said, the worst first", () => {
    const looks = new Looks();
    const now = Date.parse("2026-06-01T00:00:00Z");
    const look = (text, more = {}) => {
        looks.add(looks.looks.length * 1e3, Series.parse(text));
        return attention({ looks, reasons: [], status: null, ...more }, now).map(
            ({ level, text }) => `${level}: ${text}`,
        );
    };
    assert.deepEqual(look("openexec_config_last_reload_successful 1\n"), []);
    const metrics = `openexec_unknown_executions 1
openexec_in_flight_executions 95
openexec_in_flight_executions_limit 100
openexec_connections 75
openexec_connections_limit 100
openexec_upstream_addresses{upstream="a",which="all"} 2
openexec_upstream_addresses{upstream="a",which="healthy"} 1
openexec_upstream_addresses{upstream="b",which="all"} 1
openexec_upstream_addresses{upstream="b",which="healthy"} 0
openexec_ledger_commit_failures_total 2
openexec_ledger_local 1
openexec_config_last_reload_successful 0
`;
    const status = {
        keys: [
            { tenant: "t", key: "a", state: "active", not_after: "2026-06-03T00:00:00Z" },
            { tenant: "u", key: "a", state: "active", not_after: "2026-06-03T00:00:00Z" },
            { tenant: "u", key: "b", state: "active", not_after: null },
            { tenant: "v", key: "a", state: "retired", not_after: "2026-01-01T00:00:00Z" },
        ],
        certificates: [
            { of: "listener", name: "l", not_after: "2026-05-01T00:00:00Z" },
            { of: "upstream", name: "m", not_after: "2026-06-08T00:00:00Z" },
            { of: "upstream", name: "n", not_after: "2027-06-08T00:00:00Z" },
        ],
    };
    assert.deepEqual(look(metrics, { reasons: ["ledger_full", "never_heard_of"], status }), [
        "bad: Not ready: the ledger's disk is full",
        "bad: Not ready: never_heard_of",
        "bad: Near a limit: in flight, 95 of 100",
        "bad: The service b is unhealthy, at its address",
        "bad: The ledger could not make some of its commits in the last 30 s",
        "bad: The configuration that was read last was refused, and the one before is in use: see the log",
        "bad: The tenant v has no active key: nothing is approved for it",
        "bad: The certificate of listener l ended 31 d ago",
        "unknown: 1 execution has an unknown outcome: nobody knows what came of it",
        "warn: Near a limit: connections, 75 of 100",
        "warn: The service a is healthy at 1 of 2 addresses",
        "warn: The last key of tenant t ends in 2 d",
        "warn: The certificate of upstream m ends in 7 d",
        "note: The ledger is local: it is gone with this process or its pod",
    ]);
});
