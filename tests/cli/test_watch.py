"""What `acquire` and `demo` print of a session."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from em_platform.acquisition.session.report import (
    LiveReport,
    MontageRun,
    TileRun,
    report_of,
)
from em_platform.cli import watch
from em_platform.cli.console_output import ConsoleOutput, short
from em_platform.config import AcquisitionSettings, Settings
from em_platform.messaging.topics import fitting


def run(state: str, **fields: Any) -> MontageRun:
    return MontageRun(
        montage_id="m-0001", acquisition_id="m-0001-x", state=state, total=4, **fields
    )


def report(*runs: MontageRun) -> LiveReport:
    return report_of(runs, there={}, frame_px=1_000_000, cores=2, stop_ms=7.0)


def test_each_montage_is_queued_behind_those_that_wait() -> None:
    settings = Settings(acquisition=AcquisitionSettings(rows=2, columns=3))
    first, second = watch.regions(settings, 2, first=5)
    assert [first["montage_id"], second["montage_id"]] == ["m-0005", "m-0006"]
    assert [first["aperture_id"], second["aperture_id"]] == [5, 6]
    assert first["queue_position"] > 1000
    fitting("roi.create", first)


def test_news_are_reported_once_and_tiles_are_not_news() -> None:
    printed: dict[str, str] = {}
    assert list(watch.news([run("started")], printed)) == ["m-0001-x: started"]
    assert list(watch.news([run("in_progress")], printed)) == []
    done = run("completed", tiles={"a": TileRun(passed=True), "b": TileRun()})
    assert list(watch.news([done], printed)) == [
        "m-0001-x: completed, 2 of 4 tiles, 1 judged"
    ]
    assert list(watch.news([done], printed)) == []
    done.uploaded = True
    (line,) = watch.news([done], printed)
    assert "completed and uploaded" in line
    failed = run("error", reason="stage: stuck")
    assert next(iter(watch.news([failed], {}))).endswith("; stage: stuck")


def test_figures_stand_beside_those_of_a_real_microscope_and_name_what_is_wrong() -> (
    None
):
    tiles = {"a": TileRun(saved_ns=0, verdict_ms=40, passed=True)}
    found = report(
        run("completed", tiles=tiles, completed=("a",), begun_ms=0, ended_ms=500)
    )
    rate, verdict, stop, wrong = watch.figures(found)
    assert "1 tile, 1 lost; 2.00 tiles/s (published for TEMCA2: 3.07)" in rate
    assert "2.0 Mpix/s (TEMCA2: 93), 1.0 Mpix/s per core" in rate
    assert verdict == "from frame to verdict: median 40 ms, 99 % 40 ms"
    assert stop == "the stage was stopped after 7 ms"
    assert wrong == (
        "m-0001-x: completed, 1 tiles lost, 0 without a verdict, "
        "0 contradicting messages, not uploaded"
    )


def test_the_table_has_a_line_for_each_montage() -> None:
    console = Console(width=120, record=True, file=None)
    with console.capture() as caught:
        console.print(watch.table(report(run("error"), run("completed"))))
    assert caught.get().count("m-0001-x") == 2


def test_lines_have_their_seconds_and_progress_needs_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = ConsoleOutput()
    output.line("[bold] is no markup")
    output.status("tile 1 of 4")
    printed = capsys.readouterr().out
    assert printed.strip().endswith("s  [bold] is no markup")
    assert 0 <= output.seconds < 60


def test_a_path_is_seen_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert short(tmp_path / "a" / "b") == "a/b"
    assert short(Path("/elsewhere")) == "/elsewhere"
