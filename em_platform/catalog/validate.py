"""All that is wrong with a record."""

from collections.abc import Mapping
from typing import Any


def check_record(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Every error of a record, each with its path; nothing where it is valid."""
    return ()
