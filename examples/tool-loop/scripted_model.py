#!/usr/bin/env python3
"""A stand-in for a model: speaks POST /v1/chat/completions, asks for one mail, and reports what came of it."""
import argparse
import json
import re
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAIL = {"to": "ada@example.org", "subject": "Your invoice", "text": "It is paid. Thank you."}


def reply(messages):
    """One tool call for what a user says, one sentence for a tool's result."""
    last = messages[-1]
    if last["role"] != "tool":
        function = {"name": "mail_send", "arguments": json.dumps(MAIL)}
        call = {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    result = json.loads(last["content"])
    if "receipt" in result and result["status"] < 300:
        text = f"The mail to {MAIL['to']} is on its way. The receipt is {result['receipt']}."
    else:
        text = f"The mail was not sent: {result.get('detail') or result.get('result')}"
    return {"role": "assistant", "content": text}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            request = json.loads(body)
            names = [tool["function"]["name"] for tool in request["tools"]]
            # Real servers refuse other names, so this one does too.
            if self.path != "/v1/chat/completions" or not all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", n) for n in names):
                raise ValueError("not a path or not a tool name that chat completions have")
            message = reply(request["messages"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return self._answer(400, {"error": {"message": str(error), "type": "invalid_request_error"}})
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion", "created": int(time.time())}
        self._answer(200, {**head, "model": "scripted", "choices": [choice]})

    def _answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """The loop prints what happens."""


def start():
    """Serves in a thread, on a free port. Its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8701)
    arguments = parser.parse_args()
    print(f"OPENAI_BASE_URL=http://127.0.0.1:{arguments.port}/v1", flush=True)
    try:
        ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler).serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
