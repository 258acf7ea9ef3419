// What somebody else wrote, and what numbers and times look like. The words are those of `openexec top`.

/** Control characters, and those that are invisible or turn the direction of what follows. */
const UNSEEN =
    /[\u0000-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]/gu;

/** A client chose it: nothing that changes how the rest of the page reads. */
export function printable(value) {
    if (value === null || value === undefined || value === "") {
        return "–";
    }
    return String(value)
        .replace(/\p{Surrogate}/gu, "\ufffd")
        .replace(UNSEEN, (unit) => `\\u{${unit.codePointAt(0).toString(16)}}`);
}

/** Seconds, as a latency. */
export function latency(seconds) {
    if (seconds === null || seconds === undefined) {
        return "–";
    }
    if (seconds < 0.001) {
        return `${(seconds * 1e6).toFixed(0)} µs`;
    }
    return seconds < 1 ? `${(seconds * 1e3).toFixed(1)} ms` : `${seconds.toFixed(1)} s`;
}

/** Of something per second: exact where it is little. */
export function rate(value) {
    if (value === null || value === undefined) {
        return "–";
    }
    return value < 100 ? value.toFixed(1) : grouped(value);
}

export function bytes(value) {
    return value < 1_048_576 ? `${(value / 1024).toFixed(0)} KiB` : `${grouped(value / 1_048_576)} MiB`;
}

export function grouped(value) {
    return Math.round(value)
        .toString()
        .replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

const UNITS = [
    ["d", 86_400],
    ["h", 3_600],
    ["min", 60],
    ["s", 1],
];

/** Milliseconds, in the largest unit of which there are two, so that "90 min" is not "1 h". */
export function span(milliseconds) {
    const seconds = Math.abs(milliseconds) / 1e3;
    if (seconds < 1) {
        return `${Math.round(Math.abs(milliseconds))} ms`;
    }
    const [unit, size] = UNITS.find(([, size]) => seconds >= 2 * size) ?? UNITS.at(-1);
    return unit === "s" && seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.floor(seconds / size)} ${unit}`;
}

export function ago(time, now = Date.now()) {
    const passed = now - time;
    if (passed < 10_000) {
        return passed < 2_000 ? "just now" : `${Math.floor(passed / 1e3)} s ago`;
    }
    return `${span(passed)} ago`;
}

const two = (number) => String(number).padStart(2, "0");

/** The clock of who looks. */
export function clock(time) {
    const date = new Date(time);
    return [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
}

/** Date and clock of who looks; the date only where it is another day's. */
export function moment(time, now = Date.now()) {
    const date = new Date(time);
    const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
    return date.toDateString() === new Date(now).toDateString() ? clock(time) : `${day} ${clock(time)}`;
}
