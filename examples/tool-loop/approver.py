#!/usr/bin/env python3
"""The approver: shows a person exactly what would be done, and signs exactly that.

Reads {"action": ..., "payload": ...} from standard input and prints the approval artifact, or null if the answer was
no. It alone needs the key (CLAWSHIELD_SECRET_KEY or CLAWSHIELD_SECRET_KEY_FILE) and the tenant (CLAWSHIELD_TENANT_ID).
"""
import argparse
import hashlib
import hmac
import json
import os
import sys
import uuid
from datetime import datetime, timezone
from pathlib import Path


def canonical(request):
    """The text that is hashed. It is plain ASCII, so it can be shown as it is: nothing in it can move a cursor."""
    action_and_payload = {"action": request["action"], "payload": request.get("payload") or {}}
    return json.dumps(action_and_payload, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sign(text, key, tenant):
    """The HMAC form of an approval. It covers the action and its whole payload, and counts for five minutes."""
    approval_id = str(uuid.uuid4())
    action_hash = hashlib.sha256(text.encode()).hexdigest()
    issued_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    message = f"{approval_id}:{action_hash}:{tenant}:{issued_at}"
    return {
        "approval_id": approval_id,
        "action_hash": action_hash,
        "signature": hmac.new(key.encode(), message.encode(), hashlib.sha256).hexdigest(),
        "issued_by": "clawshield",
        "issued_at": issued_at,
        "tenant_id": tenant,
    }


def ask(text):
    """On the terminal itself: standard input is the request's, and must not be able to say yes."""
    try:
        answers, questions = open("/dev/tty"), open("/dev/tty", "w")
    except OSError:
        sys.exit("approver: there is no terminal to ask on; see --approve-all")
    with answers, questions:
        questions.write(f"\n  {text}\n\nApprove exactly this? [y/N] ")
        questions.flush()
        return answers.readline().strip().lower() == "y"


def secret_key():
    key, path = os.environ.get("CLAWSHIELD_SECRET_KEY"), os.environ.get("CLAWSHIELD_SECRET_KEY_FILE")
    if not key and path:
        # As OpenExec reads it: less one newline at the end.
        text = Path(path).read_bytes().decode()
        key = text[:-1].rstrip("\r") if text.endswith("\n") else text
    return key or sys.exit("approver: CLAWSHIELD_SECRET_KEY is not set")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--approve-all", action="store_true", help="ask nobody; for trying things out")
    arguments = parser.parse_args()
    tenant = os.environ.get("CLAWSHIELD_TENANT_ID") or sys.exit("approver: CLAWSHIELD_TENANT_ID is not set")
    try:
        key = secret_key()
        text = canonical(json.load(sys.stdin))
        approved = arguments.approve_all or ask(text)
    except (OSError, ValueError, LookupError, AttributeError) as error:
        sys.exit(f"approver: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(json.dumps(sign(text, key, tenant) if approved else None))


if __name__ == "__main__":
    main()
