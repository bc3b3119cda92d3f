"""What pydantic finds wrong with a value, in the words of a grid."""

from __future__ import annotations

from typing import Any

from pydantic_core import ErrorDetails

_EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    **dict.fromkeys(
        ("dict_type", "model_type", "model_attributes_type"), "expected a mapping, {{key: value}}"
    ),
    "string_type": "expected text",
    "tuple_type": "expected a list, [a, b, …]",
    "finite_number": "expected a finite number",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "too_short": "must have at least {min_length}",
    "string_pattern_mismatch": "is not of the form {pattern}",
}


_USUAL = {
    "int": "write a whole number in decimal digits, such as 10",
    "float": "write a number, such as 0.01",
    "bool": "write true or false",
    "string_type": "write a text",
    "dict": "write {{key: value}}",
    "model": "write {{key: value}}",
    "tuple": "write [a, b, …]",
    "finite": "write a number, such as 0.01",
    "greater_than_equal": "write {ge} or more",
    "greater_than": "write a number above {gt}",
    "less_than_equal": "write {le} or less",
    "less_than": "write a number below {lt}",
}


def words(details: ErrorDetails) -> str:
    """What is wrong with a value.

    >>> words({"type": "greater_than", "ctx": {"gt": 0}, "loc": (), "msg": "", "input": -1})
    'must be more than 0'
    """
    known = _EXPECTED.get(details["type"])
    if known is None:
        return details["msg"][0].lower() + details["msg"][1:]
    return known.format(**details.get("ctx", {}))


def way_out(details: ErrorDetails) -> str | None:
    """What to write, by the kind of the error alone; None where that is not enough.

    >>> way_out({"type": "greater_than", "ctx": {"gt": 0}, "loc": (), "msg": "", "input": -1})
    'write a number above 0'
    """
    way = next((way for start, way in _USUAL.items() if details["type"].startswith(start)), None)
    return way and way.format(**details.get("ctx", {}))


def shown(value: Any) -> str:
    """A value of a grid as YAML has it."""
    words = {True: "true", False: "false", None: "null"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)
