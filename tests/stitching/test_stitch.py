import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.config import StitchingSettings
from em_platform.formats import open_level
from em_platform.stitching.compute import dask_map, local_cluster, thread_map
from em_platform.stitching.inputs import open_montage
from em_platform.stitching.report import (
    is_clean,
    report_of,
    summary_of,
    write_report,
)
from em_platform.stitching.stitch import StitchResult, stitch_montage

Cut = Callable[..., dict[str, tuple[int, int]]]
TIMES = {"seconds", "cpu_seconds", "peak_memory_mb"}


def stitched(folder: Path, target: Path, **more: Any) -> StitchResult:
    montage = open_montage(folder, pixel_nm=10)
    return stitch_montage(montage, str(target), settings=StitchingSettings(), **more)


def is_side(truth: dict[str, tuple[int, int]], a: str, b: str) -> bool:
    return truth[a][0] == truth[b][0] or truth[a][1] == truth[b][1]


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in TIMES}


def test_a_real_section_is_put_together_again(
    tmp_path: Path, cut_tiles: Cut, section: np.ndarray[Any, Any]
) -> None:
    truth = cut_tiles(tmp_path / "in")
    result = stitched(tmp_path / "in", tmp_path / "x.zarr")
    off = np.array(
        [
            (p.y_px - truth[p.tile_id][0], p.x_px - truth[p.tile_id][1])
            for p in result.fit.placements
        ]
    )
    assert np.abs(off - off.mean(axis=0)).max() < 0.1
    assert is_clean(result)
    # What lies between whole pixels is cut off, and the origin follows the stage.
    mosaic = np.asarray(open_level(str(tmp_path / "x.zarr"), 0)[:, :])
    y, x = (round(float(o)) for o in np.array(result.mosaic.origin_px) - off.mean(0))
    same = section[y : y + mosaic.shape[0], x : x + mosaic.shape[1]].astype(int)
    inner = np.s_[4 : same.shape[0] - 4, 4 : same.shape[1] - 4]
    assert np.abs(mosaic[inner] - same[inner]).mean() < 4
    assert np.corrcoef(mosaic[inner].ravel(), same[inner].ravel())[0, 1] > 0.98


def test_the_report_says_what_the_fit_says(tmp_path: Path, cut_tiles: Cut) -> None:
    truth = cut_tiles(tmp_path / "in")
    result = stitched(tmp_path / "in", tmp_path / "x.zarr")
    write_report(tmp_path / "r.json", report_of(result))
    report = json.loads((tmp_path / "r.json").read_text())
    assert {"tiles", "edges", "checks", *TIMES} <= report.keys()
    assert set(report["tiles"][0]) == {"file", "x_px", "y_px", "residual_px"}
    # The overlap is wide: corners touch too, and say little.
    sides = [e for e in report["edges"] if is_side(truth, e["a"], e["b"])]
    assert len(sides) == 12
    for edge in sides:
        a, b = truth[edge["a"]], truth[edge["b"]]
        assert edge["dy_px"] == pytest.approx(b[0] - a[0], abs=0.1)
        assert edge["dx_px"] == pytest.approx(b[1] - a[1], abs=0.1)
        assert edge["kept"] is True
        assert edge["reason"] == ""
        assert edge["points"] >= 3
        assert 0.8 < edge["score"] <= 1
    assert report["cpu_seconds"] > 0
    assert report["peak_memory_mb"] > 50
    assert report["seconds"]["total"] == pytest.approx(
        sum(v for k, v in report["seconds"].items() if k != "total"), abs=0.01
    )
    assert report["mosaic"]["pixel_nm"] == 10


def test_the_report_is_the_same_on_every_kind_of_worker(
    tmp_path: Path, cut_tiles: Cut
) -> None:
    cut_tiles(tmp_path / "in")
    target = tmp_path / "x.zarr"
    one = report_of(stitched(tmp_path / "in", target))
    again = report_of(stitched(tmp_path / "in", target))
    threads = report_of(stitched(tmp_path / "in", target, run=thread_map(2)))
    assert without_times(one) == without_times(again) == without_times(threads)
    assert list(one) == list(again)


@pytest.mark.system
def test_dask_workers_give_the_same_mosaic(tmp_path: Path, cut_tiles: Cut) -> None:
    cut_tiles(tmp_path / "in")
    one = stitched(tmp_path / "in", tmp_path / "x.zarr")
    with local_cluster(2) as client:
        other = stitched(tmp_path / "in", tmp_path / "y.zarr", run=dask_map(client))
    assert other.fit == one.fit
    here, there = (
        np.asarray(open_level(str(tmp_path / name), 0)[:, :])
        for name in ("x.zarr", "y.zarr")
    )
    assert np.array_equal(here, there)


def test_16_bit_tiles_become_an_8_bit_mosaic(tmp_path: Path, cut_tiles: Cut) -> None:
    cut_tiles(tmp_path / "in", dtype="uint16")
    result = stitched(tmp_path / "in", tmp_path / "x.zarr")
    assert is_clean(result)
    mosaic = np.asarray(open_level(str(tmp_path / "x.zarr"), 0)[:, :])
    assert mosaic.dtype == np.uint8
    assert np.percentile(mosaic, 99) > 200


def test_progress_is_reported_step_by_step(tmp_path: Path, cut_tiles: Cut) -> None:
    cut_tiles(tmp_path / "in")
    reported: list[tuple[str, int, int]] = []
    stitched(
        tmp_path / "in",
        tmp_path / "x.zarr",
        progress=lambda *news: reported.append(news),
    )
    begun = [step for step, done, _ in reported if done == 0]
    assert begun == ["statistics", "matches", "fit", "mosaic"]
    assert ("statistics", 2, 2) in reported


def test_the_summary_names_what_was_dropped_and_why(
    tmp_path: Path, cut_tiles: Cut
) -> None:
    cut_tiles(tmp_path / "in")
    path = tmp_path / "in/tiles.csv"
    path.write_text(path.read_text() + "r3c0.tif,0,420\n")
    result = stitched(tmp_path / "in", tmp_path / "x.zarr")
    output = "\n".join(summary_of(result))
    assert "9 placed of 10, 1 excluded" in output
    assert "r3c0.tif: found no such file" in output
    kept = sum(match.kept for match in result.fit.matches)
    assert f"{kept} kept, {len(result.fit.matches) - kept} dropped" in output
    assert str(tmp_path / "x.zarr") in output
    assert not is_clean(result)
