"""The conversation as a file, so that an interrupted loop goes on with the same tool calls instead of new ones."""
import hashlib
import json
import os
import sys
import uuid


class Conversation:
    def __init__(self, path):
        self._path = path
        self._state = {"id": str(uuid.uuid4()), "messages": [], "requests": {}}
        if path.exists():
            self._state = json.loads(path.read_text())
        self.messages = self._state["messages"]

    def add(self, message):
        known = {call["id"] for call in self._calls()}
        for call in message.get("tool_calls", []):
            if call["id"] in known:
                sys.exit("the model used a tool call's id twice: the second would have the first one's nonce")
            known.add(call["id"])
        self.messages.append(message)
        self._save()

    def is_interrupted(self):
        return bool(self.messages) and (self.messages[-1]["role"] != "assistant" or bool(self.open_calls()))

    def open_calls(self):
        """Tool calls without a result: new ones, and those at which an earlier loop was interrupted."""
        done = {message["tool_call_id"] for message in self.messages if message["role"] == "tool"}
        return [call for call in self._calls() if call["id"] not in done]

    def request(self, call):
        """The request of this call, if an earlier loop had it approved."""
        return self._state["requests"].get(call["id"])

    def keep_request(self, call, action, payload, artifact):
        """Kept before it is sent, so that an interrupted loop sends the very same again."""
        # Ids of calls are unique within a conversation; across conversations they are not: some servers count from 1.
        name = json.dumps([self._state["id"], call["id"]])
        nonce = "tool-call-" + hashlib.sha256(name.encode()).hexdigest()
        request = {"action": action, "payload": payload, "nonce": nonce, "approval_artifact": artifact}
        self._state["requests"][call["id"]] = request
        self._save()
        return request

    def _calls(self):
        return [call for message in self.messages for call in message.get("tool_calls", [])]

    def _save(self):
        # Whole or not at all, even when the power goes.
        beside = self._path.with_name(self._path.name + ".new")
        with open(beside, "w") as file:
            json.dump(self._state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._path)
