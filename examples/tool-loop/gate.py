"""What a client of OpenExec has to know: when to ask again, when to stop, and how to check a receipt."""
import hashlib
import http.client
import json
import time

from http_json import direct, post

ATTEMPTS = 5


class Refused(Exception):
    """It was not done, and OpenExec's problem document says why."""

    def __init__(self, problem):
        super().__init__(f"{problem.get('code')}: {problem.get('detail')}")
        self.problem = problem


class Stop(Exception):
    """It may have been done. The same request may be sent again, but never under another nonce."""


def execute(base_url, request):
    """Sends the request to POST /execute until there is a verdict. Every attempt carries the same nonce."""
    for attempt in range(ATTEMPTS):
        try:
            status, headers, document = post(f"{base_url}/execute", request, {}, direct)
        except (OSError, ValueError, http.client.HTTPException) as error:
            # Perhaps it arrived, perhaps not. The nonce makes it harmless to ask again.
            trouble, pause = f"no answer from {base_url}: {error}", 2**attempt / 4
        else:
            if headers.get_content_type() != "application/problem+json":
                return checked(status, headers, document)
            code, pause = document.get("code"), headers.get("Retry-After")
            trouble = f"{code}: {document.get('detail')}"
            if code in ("outcome_unknown", "result_expired"):
                raise Stop(f"{trouble} (execution {document.get('execution_id')})")
            if pause is None and (status < 500 or code == "not_executed"):
                raise Refused(document)
            if pause is None:
                raise Stop(trouble)
        time.sleep(min(float(pause), 10))
    raise Stop(trouble)


def checked(status, headers, document):
    """The answer, if its receipt is the receipt of this result."""
    try:
        text = json.dumps(document["result"], sort_keys=True)
        receipt = hashlib.sha256(f"{document['id']}:{text}".encode()).hexdigest()
        if receipt != document["receipt"]:
            raise Stop(f"the receipt of execution {document['id']} does not fit its result")
    except (LookupError, TypeError):
        raise Stop("what answered is not OpenExec") from None
    return {
        "status": status,
        "result": document["result"],
        "execution_id": document["id"],
        "receipt": receipt,
        "replayed": headers.get("OpenExec-Replayed") == "true",
    }
