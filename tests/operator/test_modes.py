import pytest

from em_platform.operator.modes import RUN, SETUP, mode_of, refusals


@pytest.mark.parametrize(
    ("state", "mode"),
    [
        ("", "unknown"),
        ("Preview", "preview"),
        ("Preview_UpdateImage", "preview"),
        ("Preview_UpdateImage_Show_Failure", "preview"),
        ("Preview_AutoFocus_Capture_Request", "setup"),
        ("Acquisition_Stopped_Failure", "failed"),
        ("Acquisition_Montage_CaptureTile", "acquiring"),
        ("Acquisition.Montage.Paused", "paused"),
        ("Acquisition_Failure", "failed"),
        ("Preview_AutoFocus_Failure", "failed"),
        ("Shutdown", "shutdown"),
    ],
)
def test_the_mode_is_read_from_the_path(state: str, mode: str) -> None:
    assert mode_of(state) == mode


def test_a_montage_that_is_paused_tells_so_where_the_path_does_not() -> None:
    assert mode_of("Acquisition_Montage", "paused") == "paused"


def test_nothing_but_a_stop_makes_sense_before_a_coordinator_was_seen() -> None:
    assert refusals("unknown", to_do=3).keys() == {*RUN[:-2], *SETUP}


@pytest.mark.parametrize("mode", ["preview", "acquiring", "paused", "failed"])
def test_stop_now_is_never_refused(mode: str) -> None:
    assert "abort_now" not in refusals(mode, to_do=None)


def test_a_start_needs_something_to_do() -> None:
    assert "start" in refusals("preview", to_do=0)
    assert "start" not in refusals("preview", to_do=1)
    assert "start" not in refusals("preview", to_do=None)
