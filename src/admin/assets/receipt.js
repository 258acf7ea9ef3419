// Checks that need nobody's word: this browser computes the hashes itself.

import { asciiString } from "./json.js";

/** Browsers hash only on pages that nobody on the way can have changed. */
export function canCheck() {
    return globalThis.crypto?.subtle !== undefined;
}

/** Lower-case hex SHA-256 of the text's UTF-8. */
export async function sha256(text) {
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
    return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Whether the receipt belongs to this execution and this result, which is exactly the text that was stored. */
export async function isReceiptOf(id, result, receipt) {
    return (await sha256(`${id}:${result}`)) === receipt;
}

/** Whether the hash that was approved is that of this action and this payload, which is canonical text. */
export async function isActionHashOf(action, payload, hash) {
    return (await sha256(`{"action":${asciiString(action)},"payload":${payload}}`)) === hash;
}
