// The last looks at the metrics, and what they make together.

import { Series } from "./metrics.js";

/** Looks that are drawn: five minutes, at one each two seconds. */
const KEPT = 151;
/** Looks that a number is made of: few, and one slow request is all of it. */
const WINDOW = 15;

export class Looks {
    constructor() {
        this.looks = [];
    }

    /** `at`: milliseconds of a clock that never goes back. */
    add(at, series) {
        const before = this.looks.at(-1);
        this.looks.push({ at, series, step: before && between(before, { at, series }) });
        if (this.looks.length > KEPT) {
            this.looks.shift();
        }
    }

    get last() {
        return this.looks.at(-1)?.series ?? new Series();
    }

    get isEmpty() {
        return this.looks.length === 0;
    }

    /** What was counted in the last looks, and how many seconds that took; null: there was only one look. */
    window() {
        const shown = this.looks.slice(-WINDOW - 1);
        return shown.length < 2 ? null : between(shown[0], shown.at(-1));
    }

    /** `[{at, value}]` from each look to the next; a value is null where there was nothing. */
    history(value) {
        return this.looks.slice(1).map(({ at, step }) => ({ at, value: step && value(step.since, step.seconds) }));
    }
}

function between(from, to) {
    const seconds = (to.at - from.at) / 1e3;
    return seconds > 0 ? { since: to.series.since(from.series), seconds } : null;
}
