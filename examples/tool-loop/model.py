"""The model, behind any server that speaks chat completions."""
import http.client
import json
import os
import sys
import urllib.request

import scripted_model
from http_json import direct, post
from tools import TOOLS


class Model:
    def __init__(self):
        url, key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
        self._send = urllib.request.urlopen if url else direct
        self._name = os.environ.get("OPENAI_MODEL") or (sys.exit("OPENAI_MODEL is not set") if url else "scripted")
        self._url = (url or scripted_model.start()).rstrip("/") + "/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"} if key and url else {}

    def next_message(self, messages):
        """What the model says next, tool calls included."""
        document = {"model": self._name, "messages": messages, "tools": TOOLS}
        try:
            status, _, answer = post(self._url, document, self._headers, self._send)
            if status != 200:
                sys.exit(f"the model at {self._url} answered {status}: {json.dumps(answer)}")
            message = answer["choices"][0]["message"]
        except (OSError, ValueError, http.client.HTTPException) as error:
            sys.exit(f"no answer from the model at {self._url}: {error}")
        except (LookupError, TypeError):
            sys.exit(f"what answered at {self._url} does not speak chat completions")
        # Only what belongs into the next request: servers add members that others do not take back.
        kept = {"role": "assistant", "content": message.get("content")}
        if message.get("tool_calls"):
            kept["tool_calls"] = message["tool_calls"]
        return kept
