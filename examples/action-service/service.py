#!/usr/bin/env python3
"""An action service: it does what OpenExec lets through, once for each Idempotency-Key.

It sends no mail and moves no money. Mails are appended to DIR/outbox.jsonl, transfers to a table in DIR/actions.db.
With TOKEN_FILE set, callers must show the token in that file.
"""
import argparse
import hashlib
import hmac
import json
import logging
import os
import re
import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from actions import ACTIONS, Invalid
from store import KeyReused, NothingDone, Store

MAX_BODY = 256 * 1024
# Nothing in it needs escaping in /status/<key>.
KEY = re.compile(r"[A-Za-z0-9._~-]{1,128}")


class Refused(Exception):
    """Nothing was done, and this is why."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "action-service", ""
    # Longer than OpenExec keeps an idle connection (4 s), or a request could meet a connection that is being closed.
    timeout = 30
    disable_nagle_algorithm = True

    def do_GET(self):
        self._respond(self._get)

    def do_POST(self):
        self._respond(self._post)

    def _get(self):
        # A body here would be taken for the next request.
        self.close_connection |= "Content-Length" in self.headers or "Transfer-Encoding" in self.headers
        if self.path == "/healthz":
            return 200, {"status": "ok"}
        if not self.path.startswith("/status/"):
            raise Refused(404, "no such path")
        self._authenticate()
        answer = self.server.store.find(self.path[len("/status/"):])
        if answer is None:
            raise Refused(404, "nothing was done under this key")
        return 200, answer

    def _post(self):
        body = self._body()
        self._authenticate()
        action = ACTIONS.get(self.path)
        if action is None:
            raise Refused(404, "no such path")
        key = self.headers.get("Idempotency-Key", "")
        if not KEY.fullmatch(key):
            raise Refused(400, "Idempotency-Key is needed: 1 to 128 letters, digits, `-`, `.`, `_` and `~`")
        try:
            payload = json.loads(body.decode("utf-8"))
        except (ValueError, RecursionError):
            raise Refused(400, "the body is not JSON") from None
        request = hashlib.sha256(self.path.encode() + b"\n" + body).hexdigest()
        try:
            status, answer, replayed = self.server.store.once(key, request, lambda db, key: action(db, key, payload))
        except Invalid as error:
            raise Refused(422, str(error)) from None
        except KeyReused:
            raise Refused(422, "this Idempotency-Key belongs to another request") from None
        except NothingDone as error:
            logging.error("the store cannot be written: %s", error.__cause__)
            raise Refused(503, "the store cannot be written; nothing was done") from None
        if replayed:
            logging.info("%s was known", key)
        return status, answer

    def _body(self):
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or len(lengths) != 1 or not re.fullmatch("[0-9]{1,9}", lengths[0]):
            self.close_connection = True
            raise Refused(411, "one Content-Length is needed, and no Transfer-Encoding")
        length = int(lengths[0])
        if length > MAX_BODY:
            self.close_connection = True
            raise Refused(413, f"the body is over {MAX_BODY} bytes")
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionResetError("the request ended early")
        return body

    def _authenticate(self):
        token = self.server.token
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if token is not None and not hmac.compare_digest(given, b"Bearer " + token):
            raise Refused(401, "the bearer token is missing or wrong")

    def _respond(self, handle):
        try:
            status, document = handle()
        except Refused as refused:
            status, document = refused.status, {"error": str(refused)}
        except Exception as error:
            # An answer is a fact: OpenExec records it and never asks again. Where this service does not know what
            # happened it says nothing and closes. OpenExec then asks /status, or sends the same key again.
            expected = isinstance(error, (OSError, sqlite3.Error))
            logging.error("closed without an answer: %r", error, exc_info=not expected)
            self.close_connection = True
            return
        self._answer(status, document)

    def _answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code, message=None, explain=None):
        """What http.server itself refuses, such as a bad request line. Its own page would be HTML."""
        self.close_connection = True
        self._answer(code, {"error": message or self.responses[code][0]})


class Server(ThreadingHTTPServer):
    # The default is 5: a burst of connections would wait for a second.
    request_queue_size = 128


def read_token(path):
    if not path:
        return None
    try:
        token = Path(path).read_bytes().strip()
    except OSError as error:
        sys.exit(f"TOKEN_FILE cannot be read: {error}")
    return token or sys.exit("TOKEN_FILE is empty")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:8700")
    parser.add_argument("--data", metavar="DIR", type=Path, default=Path(__file__).parent / "data")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    host, _, port = arguments.listen.rpartition(":")
    if not (host and re.fullmatch("[0-9]{1,5}", port)):
        parser.error("--listen must be HOST:PORT")
    token = read_token(os.environ.get("TOKEN_FILE"))
    try:
        server = Server((host, int(port)), Handler)
    except (OSError, OverflowError) as error:
        sys.exit(f"cannot listen on {arguments.listen}: {error}")
    try:
        server.store, server.token = Store(arguments.data), token
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"cannot use {arguments.data}: {error}")
    print(f"action service on http://{arguments.listen}, data in {arguments.data}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        # Nothing to finish: a transaction is committed or it is not.
        pass


if __name__ == "__main__":
    main()
