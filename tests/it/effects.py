"""An action service that is killed at any time. Its record of effects is the judge of the kill test.

A line of the record is one effect: what was asked, the approval, the idempotency key. It is on the disk before the
answer leaves. `/plain` has an effect each time it is asked; `/keyed` has one for each key. A third argument says how
many seconds at most it takes before, and after, the effect.
"""

import json
import os
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, path = int(sys.argv[1]), sys.argv[2]
slow = float(sys.argv[3])
lock = threading.Lock()
known = set()
if os.path.exists(path):
    with open(path, "rb+") as record:
        whole = record.read()
        # A torn last line was never answered, and is no effect.
        record.truncate(whole.rfind(b"\n") + 1)
        known = {json.loads(line)["key"] for line in whole.splitlines(keepends=True) if line.endswith(b"\n")}
out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Idempotency-Key"]
        time.sleep(slow * random.random())
        with lock:
            if self.path != "/keyed" or key not in known:
                known.add(key)
                effect = {"path": self.path, "approval": self.headers["OpenExec-Approval-Id"], "key": key}
                os.write(out, json.dumps(effect).encode() + b"\n")
        time.sleep(slow * random.random())
        body = json.dumps({"key": key, "at": payload["at"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass


Server(("127.0.0.1", port), Handler).serve_forever()
