// Small plots of the last minutes. What they show is beside them as text, too.

import { el, say, svg } from "./dom.js";
import { clock } from "./text.js";

const WIDTH = 300;
const HEIGHT = 48;
/** Milliseconds from the left edge to the right one: the shortest of these that holds everything. */
const SPANS = [60_000, 120_000, 300_000];

export class Plot {
    /** `name`: what is drawn. `format`: a value as text. `lowest`: the top of the plot is never below this value. */
    constructor(name, format, lowest) {
        Object.assign(this, { name, format, lowest, points: [], thin: [], drawn: 0, span: SPANS[0] });
        this.area = svg("path", { class: "area" });
        this.line = svg("path", { class: "line" });
        this.second = svg("path", { class: "second" });
        this.mark = svg("line", { class: "mark", y1: 0, y2: HEIGHT, visibility: "hidden" });
        this.picture = svg(
            "svg",
            { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
            this.area,
            this.second,
            this.line,
            this.mark,
        );
        this.caption = el("figcaption");
        this.element = el("figure", { class: "plot" }, this.picture, this.caption);
        this.picture.addEventListener("pointermove", (event) => this.point(event));
        this.picture.addEventListener("pointerleave", () => this.unpoint());
    }

    /** Points are `{at, value}`, the oldest first; `second` is a thinner line under the first. */
    draw(points, now, second = []) {
        // A little more is kept than is drawn.
        [points, second] = [points, second].map((all) => all.filter(({ at }) => now - at <= SPANS.at(-1)));
        Object.assign(this, { points, thin: second, drawn: now });
        this.span = SPANS.find((span) => now - (points[0]?.at ?? now) <= span) ?? SPANS.at(-1);
        const values = [...points, ...second].map((point) => point.value ?? 0);
        this.highest = Math.max(...values, 0);
        const top = Math.max(this.highest, this.lowest) * 1.08;
        const place = ({ at, value }) => [
            (WIDTH * (1 - (now - at) / this.span)).toFixed(1),
            (HEIGHT * (1 - value / top)).toFixed(1),
        ];
        const strokes = runs(points).map((run) => run.map(place));
        const path = (stroke) => stroke.map(([x, y]) => `${x} ${y}`).join("L");
        // A point alone is a dot: a line of no length with round ends.
        this.line.setAttribute("d", strokes.map((stroke) => `M${path(stroke)}h0`).join(""));
        const closed = (stroke) => `M${stroke[0][0]} ${HEIGHT}L${path(stroke)}V${HEIGHT}Z`;
        this.area.setAttribute("d", strokes.map(closed).join(""));
        const thin = runs(second).map((run) => run.map(place));
        this.second.setAttribute("d", thin.map((stroke) => `M${path(stroke)}h0`).join(""));
        const last = points.at(-1)?.value ?? null;
        this.picture.setAttribute(
            "aria-label",
            `${this.name}, of ${this.span / 60_000} min: now ${this.format(last)}, at most ${this.format(this.highest)}`,
        );
        if (this.mark.getAttribute("visibility") === "hidden") {
            const minutes = `${this.span / 60_000} min`;
            say(this.caption, `${minutes}, ${this.highest > 0 ? `peak ${this.format(this.highest)}` : "nothing yet"}`);
        }
    }

    point(event) {
        const box = this.picture.getBoundingClientRect();
        const at = this.drawn - this.span * (1 - (event.clientX - box.left) / box.width);
        const known = this.points.filter((point) => point.value !== null);
        if (known.length === 0) {
            return;
        }
        const nearest = known.reduce((a, b) => (Math.abs(a.at - at) <= Math.abs(b.at - at) ? a : b));
        const x = (WIDTH * (1 - (this.drawn - nearest.at) / this.span)).toFixed(1);
        this.mark.setAttribute("x1", x);
        this.mark.setAttribute("x2", x);
        this.mark.setAttribute("visibility", "visible");
        const time = Date.now() - (performance.now() - nearest.at);
        say(this.caption, `${this.format(nearest.value)} at ${clock(time)}`);
    }

    unpoint() {
        this.mark.setAttribute("visibility", "hidden");
        this.draw(this.points, this.drawn, this.thin);
    }
}

/** Neighbours that have values. */
function runs(points) {
    const found = [[]];
    for (const point of points) {
        if (point.value !== null) {
            found.at(-1).push(point);
        } else if (found.at(-1).length > 0) {
            found.push([]);
        }
    }
    return found.filter((run) => run.length > 0);
}
