"""What stops a session before an aperture, each with its sentence."""

from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.coordinator.requirements import Situation, problem
from em_platform.config import CoordinatorSettings


def situation(frames: Path, **fields: Any) -> Situation:
    known = {
        "montage_id": "m-1",
        "frames": frames,
        "needed_bytes": 0,
        "errors": 0,
        "beam_mean": None,
        "calibrations": frozenset(),
        "is_continued": False,
    }
    return Situation(**{**known, **fields})


def test_a_microscope_in_order_may_image(tmp_path: Path) -> None:
    frames = tmp_path / "not" / "there"
    assert problem(situation(frames, beam_mean=3.0), CoordinatorSettings()) == ""


@pytest.mark.parametrize(
    ("fields", "settings", "words"),
    [
        ({}, {"min_free_gb": 1e9}, "are to stay free"),
        ({"needed_bytes": 10**18}, {}, "its frames take 1000000000.0 GB"),
        ({"errors": 3}, {}, "3 requests failed"),
        ({"errors": 1}, {"max_errors": 1}, "1 requests failed"),
        ({"beam_mean": 19.0}, {"min_beam_mean": 20}, "mean is 19 grey levels"),
        ({}, {"require_brightfield": True}, "no brightfield"),
        ({}, {"require_darkfield": True}, "no darkfield"),
        ({}, {"existing_data": "refuse"}, "holds frames already"),
    ],
)
def test_each_condition_stops_with_a_sentence(
    tmp_path: Path, fields: dict[str, Any], settings: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "m-1"
    folder.mkdir()
    (folder / "m-1-x_000_000.tiff").touch()
    found = problem(situation(tmp_path, **fields), CoordinatorSettings(**settings))
    assert found.startswith("coordinator: m-1 is not imaged: ")
    assert words in found
    assert ";" in found  # says what to do


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({"errors": 2}, {}),
        ({"beam_mean": 20.0}, {"min_beam_mean": 20}),
        ({"calibrations": frozenset({"bright_field"})}, {"require_brightfield": True}),
        ({"is_continued": True}, {"existing_data": "refuse"}),
    ],
)
def test_just_enough_is_enough(
    tmp_path: Path, fields: dict[str, Any], settings: dict[str, Any]
) -> None:
    folder = tmp_path / "m-1"
    folder.mkdir()
    (folder / "m-1-x_000_000.tiff").touch()
    found = problem(situation(tmp_path, **fields), CoordinatorSettings(**settings))
    assert found == ""


def test_a_reference_that_is_there_is_enough(tmp_path: Path) -> None:
    (tmp_path / "references").mkdir()
    (tmp_path / "references" / "bright.tiff").touch()
    settings = CoordinatorSettings(require_brightfield=True)
    assert problem(situation(tmp_path), settings) == ""


def test_linked_references_are_no_frames(tmp_path: Path) -> None:
    (tmp_path / "m-1").mkdir()
    (tmp_path / "m-1" / "bright.tiff").touch()
    settings = CoordinatorSettings(existing_data="refuse")
    assert problem(situation(tmp_path), settings) == ""
