/**
 * JSON that can be read in one way only, and its canonical text: what CPython prints for
 * `json.dumps(value, sort_keys=True, separators=(",", ":"))`.
 *
 * `JSON.parse` alone will not do. It takes the last of two members with one name, rounds integers to doubles, and
 * forgets whether 1 or 1.0 was written, while an approval covers every digit.
 */

/** Integers are `bigint`, other numbers `number`; an object is a `Map`, in which no name has a meaning of its own. */
export type Json = null | boolean | string | bigint | number | Json[] | JsonObject;
export type JsonObject = Map<string, Json>;

// As much as OpenExec reads, unless it is configured otherwise.
const MOST_DEPTH = 64;
const MOST_VALUES = 10_000;
const MOST_DIGITS = 4_300;
const WHITE_SPACE = /[ \t\n\r]*/y;

/** The value of a body. An error says what is wrong with it, and where. */
export function read(body: Uint8Array): Json {
  // `ignoreBOM` keeps a byte order mark as a character, which then is no JSON.
  const reader = new Reader(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(body));
  const value = reader.value(1);
  reader.end();
  return value;
}

/** The one spelling of a value. It is plain ASCII, so it can be shown: nothing in it can move a cursor. */
export function canonical(value: Json): string {
  if (typeof value === "string") {
    return canonicalString(value);
  }
  if (typeof value === "number") {
    return canonicalFloat(value);
  }
  if (Array.isArray(value)) {
    return `[${value.map(canonical).join(",")}]`;
  }
  if (value instanceof Map) {
    const members = [...value].sort(([one], [other]) => byCodePoint(one, other));
    return `{${members.map(([name, inner]) => `${canonicalString(name)}:${canonical(inner)}`).join(",")}}`;
  }
  return String(value);
}

/** `<` would compare UTF-16 units, in which U+1F600 comes before U+FF5E. The bytes of UTF-8 are in the right order. */
function byCodePoint(one: string, other: string): number {
  return Buffer.compare(Buffer.from(one), Buffer.from(other));
}

function canonicalString(text: string): string {
  const escaped = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, escaped);
}

/** Both languages find the same digits, the fewest that read back; only the layout differs. */
function canonicalFloat(number: number): string {
  if (Object.is(number, -0)) {
    return "-0.0";
  }
  const scientific = number.toExponential();
  const exponent = Number(scientific.slice(scientific.indexOf("e") + 1));
  if (exponent < -4 || exponent >= 16) {
    return scientific.replace(/(?<=e[+-])[0-9]$/, "0$&");
  }
  const plain = String(number);
  return plain.includes(".") ? plain : `${plain}.0`;
}

/** Reads text once, front to back. */
class Reader {
  readonly #text: string;
  #at = 0;
  #values = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** Nothing but white space may follow. */
  end(): void {
    this.#match(WHITE_SPACE);
    if (this.#at < this.#text.length) {
      throw this.#error("text after the value");
    }
  }

  /** The next value; `depth` counts the arrays and objects that are open if it is one. */
  value(depth: number): Json {
    this.#values += 1;
    if (this.#values > MOST_VALUES) {
      throw this.#error("too many values");
    }
    const first = this.#token(/[{["]|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null/y);
    if ((first === "{" || first === "[") && depth > MOST_DEPTH) {
      throw this.#error("nested too deeply");
    }
    switch (first) {
      case "{":
        return this.#object(depth);
      case "[":
        return this.#array(depth);
      case '"':
        return this.#string();
      case "null":
        return null;
      case "true":
      case "false":
        return first === "true";
      case undefined:
        throw this.#error("no JSON value");
      default:
        return this.#number(first);
    }
  }

  #object(depth: number): JsonObject {
    const members: JsonObject = new Map();
    if (this.#token(/\}/y) !== undefined) {
      return members;
    }
    do {
      this.#expect(/"/y, "a member's name is missing");
      const name = this.#string();
      if (members.has(name)) {
        throw this.#error("an object repeats a name");
      }
      this.#expect(/:/y, "':' is missing");
      members.set(name, this.value(depth + 1));
    } while (this.#expect(/[,}]/y, "',' or '}' is missing") === ",");
    return members;
  }

  #array(depth: number): Json[] {
    const values: Json[] = [];
    if (this.#token(/\]/y) !== undefined) {
      return values;
    }
    do {
      values.push(this.value(depth + 1));
    } while (this.#expect(/[,\]]/y, "',' or ']' is missing") === ",");
    return values;
  }

  #number(digits: string): bigint | number {
    if (/^-?[0-9]+$/.test(digits)) {
      if (digits.replace("-", "").length > MOST_DIGITS) {
        throw this.#error(`an integer of more than ${MOST_DIGITS} digits`);
      }
      return BigInt(digits);
    }
    const number = Number(digits);
    if (!Number.isFinite(number)) {
      throw this.#error("a number that is too large for a double");
    }
    return number;
  }

  /** The rest of a string, behind its opening quote. */
  #string(): string {
    const quote = this.#at - 1;
    while (this.#match(/[^"\\\u0000-\u001f]+|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})/y) !== undefined);
    if (this.#match(/"/y) === undefined) {
      throw this.#error("an unknown escape, a control character or no end of a string");
    }
    const text = JSON.parse(this.#text.slice(quote, this.#at)) as string;
    // With `u` a pair is one character, so this finds halves only.
    if (/[\ud800-\udfff]/u.test(text)) {
      throw this.#error("a lone surrogate");
    }
    return text;
  }

  #expect(pattern: RegExp, problem: string): string {
    const token = this.#token(pattern);
    if (token === undefined) {
      throw this.#error(problem);
    }
    return token;
  }

  /** What `pattern` matches behind white space. */
  #token(pattern: RegExp): string | undefined {
    this.#match(WHITE_SPACE);
    return this.#match(pattern);
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    this.#at += found?.length ?? 0;
    return found;
  }

  #error(problem: string): Error {
    return new Error(`${problem} at character ${this.#at}`);
  }
}
