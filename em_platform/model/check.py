"""The outcome of one quality rule, and the verdict that follows from all."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Self

from em_platform.model.base import Model

NOT_APPLICABLE = "Not applicable: "
"""How the sentence of a check begins that had nothing to compare."""


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

    @classmethod
    def not_applicable(cls, name: str, why: str) -> Self:
        """Of a rule that had nothing to compare.

        Dagster wants an outcome of each check and knows no third one: it passes, its
        sentence says that it is none, and nobody counts it.
        """
        sentence = f"{NOT_APPLICABLE}{why}"
        return cls(name=name, passed=True, severity=Severity.WARN, sentence=sentence)

    @property
    def is_applicable(self) -> bool:
        """Whether anything was compared."""
        return not self.sentence.startswith(NOT_APPLICABLE)


class ReviewStatus(StrEnum):
    """Whether a person must look at a mosaic before it is used."""

    PASSED = "passed"
    NEEDS_REVIEW = "needs_review"


class Review(Model):
    """The verdict on one montage; `reasons` are the sentences of what failed."""

    status: ReviewStatus
    reasons: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the mosaic may be used without a further look."""
        return self.status is ReviewStatus.PASSED


def review_of(checks: Iterable[Check]) -> Review:
    """The verdict that follows from the checks: only those of severity ERROR count.

    The mosaic's mark, the status of the catalog record, the review in TEM DB and the
    exit status of `em-platform stitch` all come from here, so that they agree.
    """
    # A warning alone keeps no mosaic from being used.
    reasons = tuple(check.sentence for check in failed_errors(checks))
    status = ReviewStatus.NEEDS_REVIEW if reasons else ReviewStatus.PASSED
    return Review(status=status, reasons=reasons)


def failed_errors(checks: Iterable[Check]) -> tuple[Check, ...]:
    """The checks of severity ERROR that failed."""
    return tuple(
        check
        for check in checks
        if not check.passed and check.severity is Severity.ERROR
    )
