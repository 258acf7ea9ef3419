// Metrics in Prometheus's text format, and what two looks at them make: rates and quantiles. As src/cli/top/series.rs.

/** Values by series: a metric's name with its labels. */
export class Series {
    /** `[{name, labels, key, value}]` */
    constructor(all = []) {
        this.all = all;
        this.byKey = new Map(all.map((one) => [one.key, one]));
        this.byName = groupBy(all, (one) => one.name);
    }

    /** Lines that are no series are left out. */
    static parse(text) {
        const all = [];
        for (const line of text.split("\n")) {
            const found = LINE.exec(line);
            const value = found && number(found[3]);
            if (found && value !== null) {
                all.push({ name: found[1], labels: labels(found[2]), key: found[1] + (found[2] ?? ""), value });
            }
        }
        return new Series(all);
    }

    of(metric) {
        return this.byName.get(metric) ?? [];
    }

    has(metric) {
        return this.byName.has(metric);
    }

    /** Of a metric without labels; 0 where it is not there. */
    get(metric) {
        return this.byKey.get(metric)?.value ?? 0;
    }

    /** Of all series of a metric whose labels have these values. */
    sum(metric, wanted = {}) {
        const has = (one) => Object.entries(wanted).every(([name, value]) => one.labels[name] === value);
        return this.of(metric)
            .filter(has)
            .reduce((sum, one) => sum + one.value, 0);
    }

    /** Sums of a metric by a label's value. */
    by(metric, label) {
        const sums = new Map();
        for (const one of this.of(metric)) {
            const word = one.labels[label];
            if (word !== undefined) {
                sums.set(word, (sums.get(word) ?? 0) + one.value);
            }
        }
        return sums;
    }

    /** What was counted since then. A server that was started anew counts from zero. */
    since(before) {
        return new Series(
            this.all.map((one) => {
                const then = before.byKey.get(one.key)?.value ?? 0;
                return { ...one, value: one.value >= then ? one.value - then : one.value };
            }),
        );
    }

    /** Of a histogram, as Prometheus' `histogram_quantile` has it; null when nothing was observed. */
    quantile(histogram, quantile) {
        const buckets = this.of(`${histogram}_bucket`)
            .map((one) => [number(one.labels.le ?? ""), one.value])
            .filter(([bound]) => bound !== null)
            .sort(([a], [b]) => a - b);
        const all = buckets.at(-1)?.[1] ?? 0;
        if (all <= 0) {
            return null;
        }
        const rank = quantile * all;
        let below = [0, 0];
        for (const [bound, count] of buckets) {
            if (count >= rank) {
                // Nothing is known of what is above the last bound.
                const share = count > below[1] ? (rank - below[1]) / (count - below[1]) : 0;
                return bound === Infinity ? below[0] : below[0] + (bound - below[0]) * share;
            }
            below = [bound, count];
        }
        return null;
    }
}

/** Items by what they have in common. */
export function groupBy(items, of) {
    const groups = new Map();
    for (const item of items) {
        const key = of(item);
        if (!groups.has(key)) {
            groups.set(key, []);
        }
        groups.get(key).push(item);
    }
    return groups;
}

const LINE = /^([a-zA-Z_:][\w:]*)(\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})? (\S+)(?: -?\d+)?$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { n: "\n", "\\": "\\", '"': '"' };

function labels(text) {
    const found = Object.create(null);
    for (const [, name, value] of (text ?? "").matchAll(LABEL)) {
        found[name] = value.replace(/\\(.)/g, (whole, escaped) => ESCAPES[escaped] ?? whole);
    }
    return found;
}

function number(text) {
    if (text === "+Inf" || text === "-Inf") {
        return text === "+Inf" ? Infinity : -Infinity;
    }
    const value = text === "" ? NaN : Number(text);
    return Number.isNaN(value) ? null : value;
}
