"""Sections on the disk: tiles for `stitch`, and all that is true of them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from em_platform.cli import main
from em_platform.config import AcquisitionSettings, SimulationSettings
from em_platform.errors import OutputRefused, StorageError
from em_platform.model.truth import MontageTruth
from em_platform.simulation.sections import MadeSection, simulate_sections
from em_platform.simulation.specimen.tissue import tissue_labels
from em_platform.stitching.compute import serial, thread_map

Simulate = Callable[..., list[MadeSection]]


def settings(**simulation: object) -> AcquisitionSettings:
    chosen = {"tile_px": 192, "jitter_px": 6, "dust": 0, "seed": 5, **simulation}
    return AcquisitionSettings(
        rows=2, columns=2, overlap=0.3, simulation=SimulationSettings(**chosen)
    )


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sections 0 and 1."""
    folder = tmp_path_factory.mktemp("sections")
    made = list(simulate_sections(folder, range(2), settings=settings(folds=2)))
    assert [(each.tiles, each.made) for each in made] == [(4, True)] * 2
    return folder


def test_one_section_alone_and_in_threads_has_the_same_bytes(
    two: Path, tmp_path: Path
) -> None:
    chosen = settings(folds=2)
    list(simulate_sections(tmp_path, [1], settings=chosen, run=thread_map(2)))
    assert digests(tmp_path / "sections-s0001") == digests(two / "sections-s0001")


def test_what_stands_is_kept_and_other_settings_are_refused(two: Path) -> None:
    before = digests(two)
    (kept,) = simulate_sections(two, [0], settings=settings(folds=2))
    assert not kept.made
    with pytest.raises(OutputRefused, match="replace it by --overwrite"):
        list(simulate_sections(two, [0], settings=settings(seed=6)))
    assert digests(two) == before


def test_a_folder_of_others_is_left_as_it_is(tmp_path: Path) -> None:
    notes = tmp_path / "sections-s0000" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("three weeks of work")
    with pytest.raises(OutputRefused, match="is not a simulated section"):
        list(simulate_sections(tmp_path, [0], settings=settings(), overwrite=True))
    assert list(notes.parent.iterdir()) == [notes]


def test_a_section_that_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    def broken(act: Callable, items: list, /) -> list:
        act(items[0])
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError):
        list(simulate_sections(tmp_path, [0], settings=settings(), run=broken))
    assert list(tmp_path.iterdir()) == []


def test_labels_are_those_of_the_place_that_the_truth_gives(two: Path) -> None:
    folder = two / "sections-s0000"
    text = (folder / "sections-s0000.truth.json").read_text()
    truth = MontageTruth.model_validate_json(text)
    assert truth.pixel_nm == 4.0
    for tile_id, tile in truth.tiles.items():
        off = tile.placement.y_px - tile.nominal_y_px
        assert 0 < abs(off) <= 6, "the jitter of the stage"
        y, x = round(tile.placement.y_px), round(tile.placement.x_px)
        cells, classes = tissue_labels(
            y, x, height=192, width=192, section=0, seed=5, folds=2.0
        )
        for kind, expected in (("cells", cells), ("classes", classes)):
            found = tifffile.imread(folder / "labels" / f"{tile_id}.{kind}.tif")
            assert found.dtype == expected.dtype
            assert (found == expected).mean() > 0.999


def test_a_missing_tile_is_in_the_list_and_not_in_the_folder(tmp_path: Path) -> None:
    chosen = settings(missing="1:1")
    list(simulate_sections(tmp_path, [0], settings=chosen, labels=False, run=serial))
    folder = tmp_path / "sections-s0000"
    listed = json.loads((folder / "tiles.json").read_text())["tiles"]
    assert len(listed) == 4
    assert len(list(folder.glob("*.tiff"))) == 3
    assert not (folder / "labels").exists()


def test_the_command_makes_tiles_that_stitch_places_where_they_were_imaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    size = ["--tile-px", "256", "--rows", "2", "--columns", "2", "--overlap", "0.3"]
    main_of("sections", "--output", "cut", "--sections", "3:4", "--json", *size)
    assert json.loads(capsys.readouterr().out)["sections"][0]["tiles"] == 4
    main_of(
        "stitch", "cut/sections-s0003", "--output", "m.zarr", "--workers", "1",
        "--report", "report.json",
    )  # fmt: skip
    checks = json.loads(Path("report.json").read_text())["checks"]
    (found,) = [c for c in checks if c["name"] == "placements_match_truth"]
    assert found["passed"]
    assert 0 < found["value"] < 0.1
    assert f"RMSE {found['value']:.3f} px of 4 tiles" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--sections", "0", "found no number of sections"),
        ("--sections", "4:2", "found no number of sections"),
        ("--name", "a/b", "cannot begin a file's name"),
        ("--tile-px", "5", "acquisition.simulation.tile_px"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    sentence: str,
) -> None:
    with pytest.raises(SystemExit) as end:
        main_of("sections", "--output", str(tmp_path / "cut"), option, value)
    assert end.value.code == 1
    shown = capsys.readouterr().err
    assert sentence in shown
    assert len(shown.splitlines()) == 1
    assert not (tmp_path / "cut").exists()


def main_of(*arguments: str) -> None:
    try:
        main(list(arguments))
    except SystemExit as end:
        if end.code:
            raise


def test_focus_falls_towards_the_edge_of_a_tape_that_is_not_level(
    tmp_path: Path,
) -> None:
    from em_platform.imaging.focus import focus_score

    chosen = settings(focus_gradient_px=3.0, electrons=0)
    wide = chosen.model_copy(update={"rows": 1, "columns": 3})
    list(simulate_sections(tmp_path, [0], settings=wide, labels=False))
    left, middle, right = (
        focus_score(tifffile.imread(path).astype(np.float32))
        for path in sorted((tmp_path / "sections-s0000").glob("*.tiff"))
    )
    assert left < 0.5 * middle
    assert right < 0.5 * middle
