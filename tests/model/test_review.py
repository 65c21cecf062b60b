import pytest

from em_platform.model import Check, ReviewStatus, Severity, review_of


def check(passed: bool, severity: Severity, sentence: str = "") -> Check:
    return Check(name="rule", passed=passed, severity=severity, sentence=sentence)


@pytest.mark.parametrize(
    ("checks", "status"),
    [
        ([], ReviewStatus.PASSED),
        ([check(True, Severity.ERROR)], ReviewStatus.PASSED),
        ([check(False, Severity.WARN)], ReviewStatus.PASSED),
        ([check(False, Severity.ERROR)], ReviewStatus.NEEDS_REVIEW),
    ],
)
def test_only_a_failed_error_asks_for_a_review(
    checks: list[Check], status: ReviewStatus
) -> None:
    assert review_of(checks).status is status


def test_the_reasons_are_the_sentences_of_the_failed_errors() -> None:
    found = review_of(
        [
            check(False, Severity.ERROR, "Missing: 2 of 16 tiles."),
            check(False, Severity.WARN, "Almost uniform: 1 of 14 tiles."),
            check(True, Severity.ERROR, "All tiles are connected."),
        ]
    )
    assert found.reasons == ("Missing: 2 of 16 tiles.",)
