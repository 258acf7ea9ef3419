"""evaluate.py POLICY: what a ValidatingAdmissionPolicy says of the admission requests on standard input, a JSON list of
{request, object, oldObject}: for each a list of the messages of the rules that deny it, or null where it does not apply.

The API server's CEL has functions that cel-python has not: `join` and `substring` are ours. An expression that cel-python
cannot evaluate, where the API server would not either (a member that is absent), denies, as failurePolicy Fail has it; its
"message" is the error. Costs are not measured.
"""

import json
import sys

import celpy
import yaml
from celpy import celtypes


def join(items, separator):
    return celtypes.StringType(str(separator).join(str(item) for item in items))


def substring(text, start):
    return celtypes.StringType(str(text)[int(start):])


def program(expression):
    environment = celpy.Environment()
    return environment.program(environment.compile(expression), functions={"join": join, "substring": substring})


policy = next(d for d in yaml.safe_load_all(open(sys.argv[1], encoding="utf-8")) if d and d["kind"] == "ValidatingAdmissionPolicy")
spec = policy["spec"]
assert spec["failurePolicy"] == "Fail"
CONDITIONS = [program(condition["expression"]) for condition in spec["matchConditions"]]
VARIABLES = [(variable["name"], program(variable["expression"])) for variable in spec["variables"]]
VALIDATIONS = [
    (program(rule["expression"]), rule["message"], program(rule["messageExpression"]) if "messageExpression" in rule else None)
    for rule in spec["validations"]
]


def is_true(value):
    assert isinstance(value, celtypes.BoolType), f"not a verdict: {value!r}"
    return bool(value)


def judge(case):
    known = {name: celpy.json_to_cel(case.get(name)) for name in ("request", "object", "oldObject")}
    try:
        if not all(is_true(condition.evaluate(known)) for condition in CONDITIONS):
            return None
        variables = celtypes.MapType()
        for name, value in VARIABLES:
            variables[celtypes.StringType(name)] = value.evaluate({**known, "variables": variables})
    except celpy.CELEvalError as error:
        return [f"error: {error}"]
    known["variables"] = variables
    denied = []
    for rule, message, expression in VALIDATIONS:
        try:
            if not is_true(rule.evaluate(known)):
                denied.append(str(expression.evaluate(known)) if expression else message)
        except celpy.CELEvalError as error:
            denied.append(f"error: {error}")
    return denied


json.dump([judge(case) for case in json.load(sys.stdin)], sys.stdout)
