"""Fields of parameters as arguments of a command line."""

from collections.abc import Mapping
from typing import Any, TypeAlias

Fields: TypeAlias = Mapping[str, Any]
Parameters = Any
"""Those of the stage whose engine a program is; stages stand above programs."""


def flagged(fields: Fields, flags: Mapping[str, str]) -> list[str]:
    """Flag and value of each field that has one, in the order of the flags."""
    words: list[str] = []
    for name, flag in flags.items():
        value = fields.get(name)
        if value is None or value == "":
            continue
        words += [flag, word(value)]
    return words


def word(value: Any) -> str:
    """One value as one word: pairs have a blank in it."""
    if isinstance(value, Mapping):
        return " ".join(str(each) for each in value.values())
    if isinstance(value, tuple | list):
        return " ".join(str(each) for each in value)
    return str(value)
