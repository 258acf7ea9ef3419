// The server, as this page asks it. A session is a cookie that scripts cannot read, and a proof that only this origin
// can: a cookie is sent to every port of a host, and to none of them is it of use alone. The proof is this tab's, and goes
// with it: whatever listens on the same port of an operator's machine next is the same origin.

const PROOF = "openexec-proof";
/** A server that does not answer in this time is of no use to whoever looks. */
const PATIENCE = 10_000;

/** The server refused, and says why. */
export class Problem extends Error {
    constructor(status, document) {
        super(document.detail ?? `The server answered ${status}`);
        this.status = status;
        this.code = document.code ?? String(status);
    }
}

/** The server cannot be asked. */
export class Gone extends Error {}

/** Called when the server knows no session of ours any more. */
let ended = () => {};
export const onSessionEnd = (call) => (ended = call);

/** `{role, expires_at}` */
export async function logIn(token) {
    const session = await ask("POST", "session", JSON.stringify({ token }));
    sessionStorage.setItem(PROOF, session.proof);
    return session;
}

/** `{role, expires_at}`; null: there is none. */
export async function session() {
    try {
        return await ask("GET", "session");
    } catch (error) {
        if (error.status === 401) {
            return null;
        }
        throw error;
    }
}

/** Here it is over, even if the server cannot be told. */
export async function logOut() {
    try {
        await ask("DELETE", "session");
    } finally {
        sessionStorage.removeItem(PROOF);
    }
}

/** What only a session may ask for. */
export const get = (path) => ofSession("GET", path);
/** `body`: JSON as text, so that every digit of it stays as it is. */
export const post = (path, body) => ofSession("POST", path, body);

/** The text, and whether it was an answer of 2xx; to this, 503 is an answer too. */
export async function probe(path) {
    const response = await send("GET", path, {});
    return { ok: response.ok, text: await whole(response.text()) };
}

async function ofSession(method, path, body) {
    try {
        return await ask(method, path, body);
    } catch (error) {
        if (error.status === 401) {
            sessionStorage.removeItem(PROOF);
            ended();
        }
        throw error;
    }
}

async function ask(method, path, body) {
    const headers = { "OpenExec-Session": sessionStorage.getItem(PROOF) ?? "" };
    if (body !== undefined) {
        headers["Content-Type"] = "application/json";
    }
    const response = await send(method, path, { headers, body });
    const text = await whole(response.text());
    let document = null;
    try {
        document = JSON.parse(text);
    } catch {
        // A proxy in between may say something else.
    }
    if (!response.ok || document === null) {
        throw new Problem(response.status, document ?? {});
    }
    return document;
}

function send(method, path, more) {
    const signal = AbortSignal.timeout(PATIENCE);
    return whole(fetch(path, { method, signal, cache: "no-store", redirect: "error", ...more }));
}

async function whole(promise) {
    try {
        return await promise;
    } catch (error) {
        throw new Gone("The server does not answer", { cause: error });
    }
}
