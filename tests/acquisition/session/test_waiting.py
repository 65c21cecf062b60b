"""Each wait of a session names what it waits for, and ends when that cannot come."""

import pytest

from em_platform.acquisition.session.report import MontageRun, TileRun
from em_platform.acquisition.session.waiting import wait_of
from em_platform.config import AcquisitionSettings

SETTINGS = AcquisitionSettings()


def run(state: str, **fields: object) -> MontageRun:
    return MontageRun(
        montage_id="m-1", acquisition_id="m-1-x", state=state, total=4, **fields
    )


JUDGED = {"a": TileRun(passed=True)}


@pytest.mark.parametrize(
    ("heard", "what"),
    [
        (None, "the start of m-1"),
        (run("in_progress", imaged=2), "tile 3 of 4 of m-1-x"),
        (run("completed"), "montage.complete of m-1-x"),
        (
            run("completed", completed=("a", "b"), tiles=JUDGED),
            "the verdicts on 1 tiles of m-1-x",
        ),
        (run("completed", completed=("a",), tiles=JUDGED), "the upload of m-1-x"),
    ],
)
def test_a_wait_names_its_reason(heard: MontageRun | None, what: str) -> None:
    wait = wait_of("m-1", heard, SETTINGS)
    assert wait.what == what
    assert ".log" in wait.see


def test_a_wait_is_as_long_as_the_service_takes_that_owes_the_answer() -> None:
    short = SETTINGS.model_copy(update={"request_timeout_s": 0.5, "request_tries": 2})
    assert wait_of("m-1", None, short).limit_s < wait_of("m-1", None, SETTINGS).limit_s
