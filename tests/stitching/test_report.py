import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.errors import DataError, StorageError
from em_platform.stitching.inputs import open_montage
from em_platform.stitching.report import file_names, refusal, write_report

Cut = Callable[..., dict[str, Any]]


def test_a_report_is_written_whole_into_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "new/r.json"
    write_report(path, {"tiles": [{"file": "ü.tif", "x_px": 1.5}]})
    written = json.loads(path.read_text())
    assert written.pop("made_by") == "em_platform stitch report"
    assert written == {"tiles": [{"file": "ü.tif", "x_px": 1.5}]}
    assert [p.name for p in path.parent.iterdir()] == ["r.json"]


def test_a_report_is_never_json_that_others_refuse(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(tmp_path / "r.json", {"residual_px": math.nan})
    assert not (tmp_path / "r.json").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file, the name of a file in a"):
        write_report(tmp_path / "file/r.json", {})


def test_files_of_one_name_in_two_folders_are_reported_apart(
    tmp_path: Path, cut_tiles: Cut
) -> None:
    cut_tiles(tmp_path / "in")
    montage = open_montage(tmp_path / "in")
    assert file_names(montage)["r0c0.tif"] == "r0c0.tif"
    tiles = tuple(
        tile.model_copy(update={"tile_id": f"id{n}", "uri": f"s3://b/{n}/same.tif"})
        for n, tile in enumerate(montage.tiles)
    )
    renamed = montage.model_copy(update={"tiles": tiles})
    assert file_names(renamed)["id3"] == "s3://b/3/same.tif"
    one = montage.model_copy(update={"tiles": tiles[:1]})
    assert file_names(one) == {"id0": "same.tif"}


def test_an_input_without_a_mosaic_has_a_report_that_says_why() -> None:
    error = DataError("in.csv: found no tile, expected one; give another list")
    report = refusal("in.csv", error)
    assert report["failures"] == [
        {"item": "in.csv", "error": "DataError", "sentence": str(error)}
    ]
    assert report["tiles"] == report["edges"] == report["checks"] == []
    assert report["peak_memory_mb"] > 0
