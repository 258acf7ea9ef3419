"""JSON that can be read in one way only.

Python's `json` takes more than that: the last of two members with one name, NaN, halves of surrogate pairs. Another
program would read another value and the approval would be for that one too, so they are refused.
"""
import json
import math

# As much as OpenExec reads, unless it is configured otherwise.
MOST_DEPTH = 64
MOST_VALUES = 10_000


def read(body):
    """The value of a body: dict, list, str, int, float, bool or None. A ValueError says what is wrong."""
    # First the encoding: `json.loads` would guess UTF-16 from bytes.
    text = body.decode("utf-8")
    try:
        value = json.loads(
            text, object_pairs_hook=members, parse_constant=no_number, parse_float=finite, parse_int=whole
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    check(value)
    return value


def members(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object repeats a name")
    return found


def no_number(word):
    raise ValueError(f"{word} is no JSON")


def finite(digits):
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number is too large for a double")
    return number


def whole(digits):
    # CPython's own limit, which an environment variable can lift.
    if len(digits.removeprefix("-")) > 4_300:
        raise ValueError("an integer has more than 4300 digits")
    return int(digits)


def check(value):
    """Depth, number of values, and halves of surrogate pairs in strings."""
    values = 0
    waiting = [(value, 1)]
    while waiting:
        value, depth = waiting.pop()
        values += 1
        if values > MOST_VALUES:
            raise ValueError("too many values")
        if isinstance(value, str):
            check_text(value)
        elif isinstance(value, (dict, list)):
            if depth > MOST_DEPTH:
                raise ValueError("nested too deeply")
            if isinstance(value, dict):
                for name in value:
                    check_text(name)
                value = value.values()
            waiting.extend((inner, depth + 1) for inner in value)


def check_text(text):
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("a lone surrogate")
