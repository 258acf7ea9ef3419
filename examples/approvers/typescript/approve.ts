#!/usr/bin/env node
/**
 * An approver: shows what is proposed, decides, and signs exactly that.
 *
 * Reads a proposed request, the body of POST /execute, from standard input and prints it with its approval. Needs
 * Node.js 18 or later and nothing else. Ends with 1 where `decide` says no, and with 2 where something cannot be read.
 */
import { createHash, createHmac, createPrivateKey, randomUUID, sign } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { canonical, read, type Json, type JsonObject } from "./strict-json.ts";

/** THE PLACE FOR YOUR POLICY: `undefined` approves, a text says why not.
 *
 * This one approves everything. Yours looks at the action and at every member of the payload that matters, or asks a
 * person. Integers are `bigint`, other numbers `number`.
 */
function decide(action: string, payload: JsonObject): string | undefined {
  return undefined;
}

const USAGE = `usage: approve --tenant ID (--key FILE | --private-key FILE) [--kid ID] [--lifetime SECONDS]

  --tenant ID         the tenant that the server acts for
  --key FILE          sign the HMAC form with this secret
  --private-key FILE  sign the Ed25519 form with this key, PKCS#8 PEM
  --kid ID            the key's name, where the server knows several
  --lifetime SECONDS  of an Ed25519 approval [default: 300]
`;

/** No server takes an approval that is good for longer. */
const LONGEST_LIFETIME = 24 * 60 * 60;

type Proposed = { action: string; payload: JsonObject; nonce: string };
type Artifact = Record<string, string>;
type Signer = (terms: Artifact) => Artifact;

async function main(): Promise<number> {
  try {
    if (process.argv.includes("--help")) {
      process.stdout.write(USAGE);
      return 0;
    }
    const { terms, signed } = commandLine();
    const { action, payload, nonce } = proposed(await standardInput());
    process.stderr.write(`action   ${canonical(action)}\npayload  ${canonical(payload)}\n`);
    const reason = decide(action, payload);
    if (reason !== undefined) {
      process.stderr.write(`approver: not approved: ${reason}\n`);
      return 1;
    }
    const artifact = signed({ ...terms, approval_id: newApprovalId(), action_hash: actionHash(action, payload) });
    // Members that no approval covers are not passed on.
    const approved = { action, payload, nonce, approval_artifact: new Map(Object.entries(artifact)) };
    process.stdout.write(`${canonical(new Map<string, Json>(Object.entries(approved)))}\n`);
    return 0;
  } catch (error) {
    process.stderr.write(`approver: ${error instanceof Error ? error.message : error}\n`);
    return 2;
  }
}

/** A UUID that begins with the time (RFC 9562, version 7): a ledger stores those that follow each other side by side,
 * which is faster than all over its index. */
function newApprovalId(): string {
  const milliseconds = Date.now().toString(16).padStart(12, "0");
  return `${milliseconds.slice(0, 8)}-${milliseconds.slice(8)}-7${randomUUID().slice(15)}`;
}

function commandLine(): { terms: Artifact; signed: Signer } {
  const text = { type: "string" } as const;
  const { values } = parseArgs({
    options: { tenant: text, key: text, "private-key": text, kid: text, lifetime: text },
  });
  const { tenant, key, kid, "private-key": privateKey, lifetime } = values;
  // Fields are signed as joined text, so none may hold what separates two of them.
  if (tenant === undefined || ![tenant, kid ?? tenant].every((name) => /^[A-Za-z0-9._~-]{1,128}$/.test(name))) {
    throw new Error("--tenant and --kid must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -");
  }
  const terms = { tenant_id: tenant, ...(kid === undefined ? {} : { kid }) };
  if (key !== undefined && privateKey === undefined) {
    if (lifetime !== undefined) {
      throw new Error("--lifetime is for --private-key: an HMAC approval is good for 300 seconds");
    }
    return { terms, signed: byHmac(key) };
  }
  if (key === undefined && privateKey !== undefined) {
    const seconds = /^[0-9]{1,5}$/.test(lifetime ?? "300") ? Number(lifetime ?? 300) : 0;
    if (seconds < 1 || seconds > LONGEST_LIFETIME) {
      throw new Error(`--lifetime must be 1 to ${LONGEST_LIFETIME} seconds`);
    }
    return { terms, signed: byEd25519(privateKey, seconds) };
  }
  throw new Error("one of --key and --private-key is needed");
}

async function standardInput(): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) {
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks);
}

/** The action, payload and nonce of a request that can be read in one way only. */
function proposed(body: Uint8Array): Proposed {
  const request = read(body);
  if (!(request instanceof Map)) {
    throw new Error("the request is no JSON object");
  }
  const action = request.get("action");
  if (typeof action !== "string" || action === "" || Buffer.byteLength(action) > 128) {
    throw new Error("`action` must be a string of 1 to 128 bytes");
  }
  const nonce = request.get("nonce");
  if (typeof nonce !== "string" || nonce === "" || Buffer.byteLength(nonce) > 256 || nonce.includes("\0")) {
    throw new Error("`nonce` must be a string of 1 to 256 bytes without U+0000");
  }
  const payload = objectOrNothing(request, "payload") ?? new Map<string, Json>();
  objectOrNothing(request, "approval_artifact");
  return { action, payload, nonce };
}

function objectOrNothing(request: JsonObject, name: string): JsonObject | undefined {
  const value = request.get(name) ?? undefined;
  if (value === undefined || value instanceof Map) {
    return value;
  }
  throw new Error(`\`${name}\` must be an object, null or absent`);
}

function actionHash(action: string, payload: JsonObject): string {
  const covered = new Map<string, Json>([["action", action], ["payload", payload]]);
  return createHash("sha256").update(canonical(covered)).digest("hex");
}

function byHmac(file: string): Signer {
  // As OpenExec reads it: less one newline at the end, which an editor or `echo` put there.
  const text = readFileSync(file);
  const key = text.subarray(0, text.length - (/\r?\n$/.exec(text.toString("latin1"))?.[0].length ?? 0));
  if (key.toString("latin1").trimStart().startsWith("-----BEGIN")) {
    throw new Error(`${file} is a PEM text: sign with --private-key`);
  }
  if (key.length === 0) {
    throw new Error(`${file} is empty`);
  }
  return (terms) => {
    const artifact = { ...terms, issued_at: time(Date.now()), issued_by: "clawshield" };
    const message = fields(artifact, "approval_id", "action_hash", "tenant_id", "issued_at").join(":");
    return { ...artifact, signature: createHmac("sha256", key).update(message).digest("hex") };
  };
}

function byEd25519(file: string, lifetime: number): Signer {
  const key = createPrivateKey(readFileSync(file));
  if (key.asymmetricKeyType !== "ed25519") {
    throw new Error(`${file} holds no Ed25519 private key`);
  }
  return (terms) => {
    const now = Date.now();
    const artifact = { ...terms, issued_at: time(now), expires_at: time(now + lifetime * 1000) };
    const message = fields(artifact, "approval_id", "tenant_id", "action_hash", "issued_at", "expires_at").join("");
    return { ...artifact, signature: sign(null, Buffer.from(message), key).toString("base64") };
  };
}

function fields(artifact: Artifact, ...names: string[]): string[] {
  return names.map((name) => {
    const value = artifact[name];
    if (value === undefined) {
      throw new Error(`the artifact has no ${name}`);
    }
    return value;
  });
}

/** UTC, microseconds (of which JavaScript's clock has none), `Z`. */
function time(milliseconds: number): string {
  return new Date(milliseconds).toISOString().replace("Z", "000Z");
}

process.exitCode = await main();
