"""The actions. Each makes its change in the transaction that it is given, and says what to answer."""
import json
import re
import uuid

ADDRESS = re.compile(r"[^@\s]+@[^@\s]+")
ACCOUNT = re.compile(r"[A-Za-z0-9-]{1,34}")
MAX_AMOUNT = 10**12


class Invalid(Exception):
    """The payload is not what the action takes. The text goes to the client."""


def send_mail(db, key, payload):
    """To the outbox; from there a mailer would take it."""
    _check(payload, required={"to": str, "subject": str}, optional={"text": str})
    if not ADDRESS.fullmatch(payload["to"]):
        raise Invalid("`to` is not a mail address")
    if not payload["subject"].strip() or "\n" in payload["subject"] or "\r" in payload["subject"]:
        raise Invalid("`subject` must be one line with something in it")
    message_id = str(uuid.uuid4())
    line = json.dumps({"message_id": message_id, "execution_id": key, **payload})
    db.execute("INSERT INTO outbox (line) VALUES (?)", (line,))
    return 202, {"message_id": message_id}


def transfer(db, key, payload):
    """From an account to another, in minor units: 1250 are 12.50, and no float is ever money."""
    _check(payload, required={"from": str, "to": str, "amount": int})
    for member in ("from", "to"):
        if not ACCOUNT.fullmatch(payload[member]):
            raise Invalid(f"`{member}` is not an account: 1 to 34 letters, digits and `-`")
    if payload["from"] == payload["to"]:
        raise Invalid("`from` and `to` are the same account")
    if not 1 <= payload["amount"] <= MAX_AMOUNT:
        raise Invalid(f"`amount` must be from 1 to {MAX_AMOUNT}")
    transfer_id = str(uuid.uuid4())
    row = (transfer_id, key, payload["from"], payload["to"], payload["amount"])
    db.execute("INSERT INTO transfers (id, execution_id, sender, receiver, amount) VALUES (?, ?, ?, ?, ?)", row)
    return 201, {"transfer_id": transfer_id, "amount": payload["amount"]}


ACTIONS = {"/mail/send": send_mail, "/payments/transfer": transfer}

NAMES = {str: "a string", int: "an integer"}


def _check(payload, required, optional=None):
    members = {**required, **(optional or {})}
    if not isinstance(payload, dict):
        raise Invalid("the payload must be an object")
    for member in required:
        if member not in payload:
            raise Invalid(f"`{member}` is missing")
    for member, value in payload.items():
        # A misspelt member must not vanish silently.
        if member not in members:
            raise Invalid(f"unknown member; known are {', '.join(members)}")
        # Not isinstance: for Python, true is an integer.
        if type(value) is not members[member]:
            raise Invalid(f"`{member}` must be {NAMES[members[member]]}")
