#!/usr/bin/env python3
"""A tool-calling loop whose tools are actions behind OpenExec.

The model proposes a tool call, the approver sees and signs it, OpenExec executes it, and the model gets the result.

Environment: OPENEXEC_URL (default http://127.0.0.1:5000); OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL. Without
OPENAI_BASE_URL a scripted model plays its part. The approver needs CLAWSHIELD_SECRET_KEY and CLAWSHIELD_TENANT_ID.
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import gate
from conversation import Conversation
from model import Model
from tools import ACTIONS

HERE = Path(__file__).parent
PROMPT = "Write to ada@example.org that the invoice is paid."
MAX_TURNS = 10


def main():
    arguments = parse_arguments()
    conversation, model = Conversation(arguments.conversation), Model()
    if conversation.is_interrupted():
        say("loop", f"goes on with {arguments.conversation}")
    else:
        conversation.add({"role": "user", "content": arguments.prompt})
        say("user", arguments.prompt)
    for _ in range(MAX_TURNS):
        for call in conversation.open_calls():
            try:
                result = call_tool(conversation, call, arguments.approve_all)
            except gate.Stop as stop:
                # "It failed" would be a guess. The model would propose the action again, and it could happen twice.
                say("openexec", str(stop))
                say("loop", "stops. Started again, it sends the same request under the same nonce.")
                return 3
            conversation.add({"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)})
        message = model.next_message(conversation.messages)
        conversation.add(message)
        if "tool_calls" not in message:
            say("model", message["content"] or "")
            return 0
    say("loop", f"stops: {MAX_TURNS} turns are enough")
    return 4


def call_tool(conversation, call, approve_all):
    """Does what the model asks for, if the approver and OpenExec let it. What the model is told about it."""
    request = conversation.request(call)
    if request is not None:
        say("loop", f"sends {request['action']} again, under the same nonce")
        return execute(request)
    action, payload = proposal(call)
    if action is None:
        say("model", "calls no tool of ours, or not with an object")
        return {"error": "invalid_call", "detail": "no such tool, or the arguments are not a JSON object"}
    say("model", f"proposes {action} {json.dumps(payload)}")
    artifact = approval(action, payload, approve_all)
    if artifact is None:
        say("approver", "says no")
        return {"error": "not_approved", "detail": "The approver said no. Do not propose the same again."}
    say("approver", f"signs, approval {artifact['approval_id']}")
    return execute(conversation.keep_request(call, action, payload, artifact))


def proposal(call):
    """The action and payload that a tool call means; None and None when it means none."""
    action = ACTIONS.get(call["function"]["name"])
    try:
        payload = json.loads(call["function"]["arguments"] or "{}")
        # NaN and infinities are Python's, not JSON's.
        json.dumps(payload, allow_nan=False)
    except (ValueError, TypeError):
        payload = None
    return (action, payload) if action and isinstance(payload, dict) else (None, None)


def approval(action, payload, approve_all):
    """Asks the approver: a process of its own. In earnest it is another user's, and that user alone has the key."""
    command = [sys.executable, str(HERE / "approver.py")] + ["--approve-all"] * approve_all
    request = json.dumps({"action": action, "payload": payload})
    approver = subprocess.run(command, input=request, stdout=subprocess.PIPE, text=True)
    if approver.returncode != 0:
        sys.exit("the approver could not be asked")
    return json.loads(approver.stdout)


def execute(request):
    try:
        answer = gate.execute(os.environ.get("OPENEXEC_URL", "http://127.0.0.1:5000").rstrip("/"), request)
    except gate.Refused as refused:
        say("openexec", f"refuses, {refused}")
        return {"error": refused.problem.get("code"), "detail": refused.problem.get("detail")}
    how = "had executed it before" if answer["replayed"] else "executed it"
    say("openexec", f"{how}, status {answer['status']}, result {json.dumps(answer['result'])}")
    say("openexec", f"execution {answer['execution_id']}, receipt {answer['receipt']} (checked)")
    return answer


def say(who, text):
    # What a model says is a stranger's text: it must not steer the terminal.
    print(f"{who:>9}  {''.join(c if c.isprintable() else ' ' for c in text)}", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="?", default=PROMPT)
    parser.add_argument("--approve-all", action="store_true", help="ask nobody; for trying things out")
    parser.add_argument("--conversation", metavar="FILE", type=Path, default=HERE / "conversation.json")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
