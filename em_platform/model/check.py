"""The outcome of one quality rule."""

from enum import StrEnum

from em_platform.model.base import Model


class Severity(StrEnum):
    """What a failed rule means: look at it, or do not use the result."""

    WARN = "warn"
    ERROR = "error"


class Check(Model):
    """One rule applied to one montage, with the sentence a person reads."""

    name: str
    passed: bool
    severity: Severity
    sentence: str
    value: float | None = None
    limit: float | None = None
    items: tuple[str, ...] = ()
