"""The tools that the model is offered, and the actions that they stand for."""


def members(required, **properties):
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


TEXT, INTEGER = {"type": "string"}, {"type": "integer"}

OFFERED = {
    "mail.send": (
        "Send a mail.",
        members(["to", "subject"], to=TEXT, subject=TEXT, text=TEXT),
    ),
    "payments.transfer": (
        "Transfer money between accounts. The amount is in minor units: 1250 are 12.50.",
        members(["from", "to", "amount"], **{"from": TEXT, "to": TEXT, "amount": INTEGER}),
    ),
}

# A tool's name may have letters, digits, `_` and `-` only. The way back is a table: `_` may stand for itself.
ACTIONS = {action.replace(".", "_"): action for action in OFFERED}

TOOLS = [
    {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}
    for name, (description, parameters) in ((name, OFFERED[action]) for name, action in ACTIONS.items())
]
