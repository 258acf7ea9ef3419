#!/usr/bin/env python3
"""An approver: shows what is proposed, decides, and signs exactly that.

Reads a proposed request, the body of POST /execute, from standard input and prints it with its approval. Needs CPython
3.9 or later and nothing else. Ends with 1 where `decide` says no, and with 2 where something cannot be read.
"""
import argparse
import base64
import hashlib
import hmac
import json
import re
import sys
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import ed25519
import strict_json

# Fields are signed as joined text, so none may hold what separates two of them.
IDENTIFIER = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)
LONGEST_LIFETIME = 24 * 60 * 60  # No server takes an approval that is good for longer.


def decide(action, payload):
    """THE PLACE FOR YOUR POLICY: None approves, a text says why not.

    This one approves everything. Yours looks at the action and at every member of the payload that matters, or asks a
    person, as examples/tool-loop/approver.py does.
    """
    return None


def main():
    arguments = command_line()
    try:
        key = hmac_key(arguments.key) if arguments.key else ed25519.seed_of_pem(arguments.private_key.read_text())
        action, payload, nonce = proposed(sys.stdin.buffer.read())
        print(f"action   {canonical(action)}\npayload  {canonical(payload)}", file=sys.stderr)
        reason = decide(action, payload)
        if reason is not None:
            print(f"approver: not approved: {reason}", file=sys.stderr)
            return 1
        terms = {"action_hash": action_hash(action, payload), "tenant_id": arguments.tenant}
        if arguments.kid is not None:
            terms["kid"] = arguments.kid
        if arguments.key:
            artifact = signed_by_hmac(key, terms)
        else:
            artifact = signed_by_ed25519(key, terms, timedelta(seconds=arguments.lifetime))
    except (OSError, ValueError) as error:
        print(f"approver: {error}", file=sys.stderr)
        return 2
    # Members that no approval covers are not passed on.
    print(canonical({"action": action, "payload": payload, "nonce": nonce, "approval_artifact": artifact}))
    return 0


def command_line():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tenant", required=True, metavar="ID", help="the tenant that the server acts for")
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--key", metavar="FILE", type=Path, help="sign the HMAC form with this secret")
    key.add_argument("--private-key", metavar="FILE", type=Path, help="sign the Ed25519 form with this key, PKCS#8 PEM")
    parser.add_argument("--kid", metavar="ID", help="the key's name, where the server knows several")
    parser.add_argument("--lifetime", metavar="SECONDS", type=int, help="of an Ed25519 approval [default: 300]")
    arguments = parser.parse_args()
    if arguments.key and arguments.lifetime is not None:
        parser.error("--lifetime is for --private-key: an HMAC approval is good for 300 seconds")
    if arguments.lifetime is None:
        arguments.lifetime = 300
    if not 1 <= arguments.lifetime <= LONGEST_LIFETIME:
        parser.error(f"--lifetime must be 1 to {LONGEST_LIFETIME} seconds")
    for name in (arguments.tenant, arguments.kid):
        if name is not None and not IDENTIFIER.fullmatch(name):
            parser.error("--tenant and --kid must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ -")
    return arguments


def proposed(body):
    """The action, payload and nonce of a request that can be read in one way only."""
    request = strict_json.read(body)
    if not isinstance(request, dict):
        raise ValueError("the request is no JSON object")
    action, nonce = request.get("action"), request.get("nonce")
    if not isinstance(action, str) or not 1 <= len(action.encode()) <= 128:
        raise ValueError("`action` must be a string of 1 to 128 bytes")
    if not isinstance(nonce, str) or not 1 <= len(nonce.encode()) <= 256 or "\0" in nonce:
        raise ValueError("`nonce` must be a string of 1 to 256 bytes without U+0000")
    for name in ("payload", "approval_artifact"):
        if not isinstance(request.get(name), (dict, type(None))):
            raise ValueError(f"`{name}` must be an object, null or absent")
    return action, request.get("payload") or {}, nonce


def canonical(value):
    """The one spelling of a value. It is plain ASCII, so it can be shown: nothing in it can move a cursor."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def action_hash(action, payload):
    return hashlib.sha256(canonical({"action": action, "payload": payload}).encode()).hexdigest()


def new_approval_id():
    """A UUID that begins with the time (RFC 9562, version 7; from Python 3.14 on `uuid.uuid7()`): a ledger stores those
    that follow each other side by side, which is faster than all over its index."""
    milliseconds = f"{int(datetime.now(timezone.utc).timestamp() * 1000):012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7{str(uuid.uuid4())[15:]}"


def signed_by_hmac(key, terms):
    artifact = {**terms, "approval_id": new_approval_id(), "issued_at": time(datetime.now(timezone.utc)),
                "issued_by": "clawshield"}
    text = ":".join(artifact[name] for name in ("approval_id", "action_hash", "tenant_id", "issued_at"))
    return {**artifact, "signature": hmac.new(key, text.encode(), hashlib.sha256).hexdigest()}


def signed_by_ed25519(seed, terms, lifetime):
    now = datetime.now(timezone.utc)
    artifact = {**terms, "approval_id": new_approval_id(), "issued_at": time(now), "expires_at": time(now + lifetime)}
    names = ("approval_id", "tenant_id", "action_hash", "issued_at", "expires_at")
    text = "".join(artifact[name] for name in names)
    return {**artifact, "signature": base64.b64encode(ed25519.sign(seed, text.encode())).decode()}


def hmac_key(path):
    """As OpenExec reads it: less one newline at the end, which an editor or `echo` put there."""
    text = path.read_bytes()
    key = text[:-1].removesuffix(b"\r") if text.endswith(b"\n") else text
    if key.lstrip().startswith(b"-----BEGIN"):
        raise ValueError(f"{path} is a PEM text: sign with --private-key")
    if not key:
        raise ValueError(f"{path} is empty")
    return key


def time(moment):
    """UTC, microseconds, `Z`."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


if __name__ == "__main__":
    sys.exit(main())
