// Elements. Text is always text: nothing is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children. `on…` are listeners; what is null, undefined or false is left out. */
export function el(tag, attributes = {}, ...children) {
    return fill(document.createElement(tag), attributes, children);
}

/** As `el`, for pictures. */
export function svg(tag, attributes = {}, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
}

export const find = (selector, within = document) => within.querySelector(selector);

/** Puts these in the place of what an element holds. */
export function show(element, ...children) {
    element.replaceChildren(...flat(children));
}

/** Changes a text only where it differs: a screen reader and a selection are left in peace. */
export function say(element, text) {
    if (element.textContent !== text) {
        element.textContent = text;
    }
}

/** Makes rows from items, and keeps those whose item is as it was: focus and selection survive a refresh. */
export function keep(parent, items, keyOf, make) {
    const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
    const wanted = items.map((item) => {
        const [key, version] = [keyOf(item), JSON.stringify(item)];
        const old = before.get(key);
        if (old && old.version === version) {
            return old;
        }
        const made = make(item);
        made.dataset.key = key;
        made.version = version;
        if (old?.contains(document.activeElement)) {
            // Where the focus was, in the row that takes its place.
            queueMicrotask(() => made.querySelector("a, button")?.focus({ preventScroll: true }));
        }
        return made;
    });
    wanted.forEach((child, at) => {
        if (parent.children[at] !== child) {
            parent.insertBefore(child, parent.children[at] ?? null);
        }
    });
    while (parent.children.length > wanted.length) {
        parent.lastElementChild.remove();
    }
}

function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
        if (value === null || value === undefined || value === false) {
            continue;
        }
        if (name.startsWith("on")) {
            element.addEventListener(name.slice(2), value);
        } else {
            element.setAttribute(name, value === true ? "" : String(value));
        }
    }
    element.append(...flat(children));
    return element;
}

function flat(children) {
    return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
