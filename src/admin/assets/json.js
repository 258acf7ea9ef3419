// JSON as text. It is never read and printed again: no digit of it may change.

/** The same text with a line for each member. Only blanks outside of strings are changed. */
export function indented(text) {
    let out = "";
    let depth = 0;
    for (let at = 0; at < text.length; at += 1) {
        const unit = text[at];
        if (unit === '"') {
            const end = endOfString(text, at);
            out += text.slice(at, end);
            at = end - 1;
        } else if (unit === "{" || unit === "[") {
            const next = skip(text, at + 1);
            if (text[next] === "}" || text[next] === "]") {
                out += unit + text[next];
                at = next;
            } else {
                depth += 1;
                out += unit + line(depth);
            }
        } else if (unit === "}" || unit === "]") {
            depth -= 1;
            out += line(depth) + unit;
        } else if (unit === ",") {
            out += unit + line(depth);
        } else if (unit === ":") {
            out += ": ";
        } else if (!isBlank(unit)) {
            out += unit;
        }
    }
    return out;
}

/** Why this is no JSON; null: it is. */
export function problemOf(text) {
    if (text.trim() === "") {
        return "A result is needed, as JSON: null, if there is nothing to say";
    }
    try {
        JSON.parse(text);
        return null;
    } catch (error) {
        return `This is no JSON: ${error.message}`;
    }
}

/** A string as the ledger's canonical text has it: ASCII. */
export function asciiString(text) {
    return JSON.stringify(text).replace(
        /[\u007f-\uffff]/g,
        (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
    );
}

const isBlank = (unit) => unit === " " || unit === "\n" || unit === "\t" || unit === "\r";
const line = (depth) => `\n${"  ".repeat(Math.max(depth, 0))}`;

function skip(text, at) {
    while (isBlank(text[at])) {
        at += 1;
    }
    return at;
}

/** Behind the closing quote. */
function endOfString(text, start) {
    for (let at = start + 1; at < text.length; at += 1) {
        if (text[at] === "\\") {
            at += 1;
        } else if (text[at] === '"') {
            return at + 1;
        }
    }
    return text.length;
}
