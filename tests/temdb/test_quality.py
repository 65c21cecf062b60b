"""Statistics, low-quality tiles and maps of a run whose truth is known."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import requests
from temdb.client import TEMdbClient
from temdb.models import Matcher

from em_platform.temdb.register import Register
from tests.temdb.entries import new_match, new_tile
from tests.uploads import new_upload

ROWS, COLUMNS = 3, 4
Call = Callable[[Callable[[TEMdbClient], Any]], Any]
HEADERS = {"X-API-Key": "secret-of-the-tests"}


def sharpness(row: int, column: int) -> float:
    return 0.9 if (row, column) != (1, 2) else 0.3


def matches(row: int, column: int) -> list[Matcher]:
    """Good everywhere, but none to the left of (2, 3)."""
    found = []
    for position, at in (("top", (row - 1, column)), ("left", (row, column - 1))):
        if min(at) < 0:
            good = -1.0  # no neighbour
        else:
            good = 0.0 if (row, column, position) == (2, 3, "left") else 3.0
        place = {"row": at[0], "col": at[1], "dX": -7 if good == 0 else 2, "dY": 1}
        found.append(new_match(good, position, **place))
    return found


@pytest.fixture
def url(register: Register, server: str, call: Call) -> str:
    """Of the QC answers of a run of 3 x 4 tiles, one of them missing."""
    register.ensure_acquisition(new_upload("m-1-t1"))
    tiles = [
        new_tile(
            row * COLUMNS + column,
            raster_position={"row": row, "col": column},
            focus_score=sharpness(row, column),
            mean_value=100 + row,
            std_value=20 + column,
            matcher=matches(row, column),
        )
        for row in range(ROWS)
        for column in range(COLUMNS)
        if (row, column) != (0, 3)
    ]
    call(lambda client: client.acquisition.add_tiles_bulk("m-1-t1", tiles))
    return f"{server}/api/v2/qc/m-1-t1"


def ask(url: str, path: str, **params: Any) -> Any:
    answer = requests.get(f"{url}/{path}", headers=HEADERS, params=params, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_statistics_of_the_tiles(url: str) -> None:
    found = ask(url, "tile-stats")
    assert found["total_tiles"] == 11
    assert found["min_focus_score"] == pytest.approx(0.3)
    assert found["max_focus_score"] == pytest.approx(0.9)
    assert found["average_focus_score"] == pytest.approx((10 * 0.9 + 0.3) / 11)
    assert found["average_intensity"] == pytest.approx(
        (3 * 100 + 4 * 101 + 4 * 102) / 11
    )


def test_statistics_of_the_matches_count_no_edge_without_a_neighbour(url: str) -> None:
    found = ask(url, "matcher-stats")
    in_rows, in_columns = 2 + 3 + 3, 4 + 4
    assert found["edges"] == in_rows + in_columns
    assert (found["min_match_quality"], found["max_match_quality"]) == (0, 3)
    assert found["edges_without_match"] == 1
    assert found["average_match_quality"] == pytest.approx(3 * 15 / 16)


def test_tiles_of_low_quality_say_why(url: str) -> None:
    found = ask(url, "low-quality-tiles")
    assert [(t["raster_position"], t["reasons"]) for t in found] == [
        ({"row": 1, "col": 2}, ["focus_score"]),
        ({"row": 2, "col": 3}, ["match_quality"]),
    ]
    strict = ask(url, "low-quality-tiles", std_lt=21, focus_lt=0, match_quality_lt=-1)
    assert [t["raster_position"]["col"] for t in strict] == [0, 0, 0]
    bad = ask(url, "bad-focus", threshold=0.5)
    assert (bad["count"], bad["tiles"][0]["raster_index"]) == (1, 6)
    scores = ask(url, "focus-scores")
    assert scores["tile_count"] == 11
    assert scores["median_focus"] == pytest.approx(0.9)


def test_maps_are_rows_of_columns(url: str) -> None:
    found = ask(url, "heatmap")
    focus = np.array(found["focus_scores"], dtype=float)
    assert focus.shape == (ROWS, COLUMNS)
    assert np.isnan(focus[0, 3])
    assert focus[1, 2] == pytest.approx(0.3)
    assert found["std_dev"][2] == [20, 21, 22, 23]
    assert found["matcher_row_quality"][2] == [None, 3, 3, 0]
    assert found["matcher_col_quality"][0] == [None, None, None, None]
    assert found["matcher_col_quality"][1] == [3, 3, 3, 3]
    assert len(found["raster_positions"]) == 11
    assert ask(url, "heatmap/std_dev") == found["std_dev"]


@pytest.mark.parametrize(
    "kind", ["focus_score", "std_dev", "matcher_row_quality", "matcher_col_quality"]
)
def test_a_map_is_a_picture_where_one_is_asked_for(url: str, kind: str) -> None:
    wanted = {**HEADERS, "Accept": "image/png"}
    answer = requests.get(f"{url}/heatmap/{kind}", headers=wanted, timeout=30)
    assert answer.headers["content-type"] == "image/png"
    image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape[1] / image.shape[0] == COLUMNS / ROWS
    cell = image.shape[0] // ROWS
    grey = image[cell // 2, 3 * cell + cell // 2]
    assert list(grey) == [128, 128, 128]  # the missing tile
    if kind == "focus_score":
        blurred = image[cell + cell // 2, 2 * cell + cell // 2].astype(int)
        sharp = image[cell // 2, cell // 2].astype(int)
        assert blurred.sum() < sharp.sum()


def test_a_run_without_tiles_has_empty_answers(register: Register, server: str) -> None:
    register.ensure_acquisition(new_upload("m-2-t1"))
    url = f"{server}/api/v2/qc/m-2-t1"
    assert ask(url, "heatmap/focus_score") == []
    assert ask(url, "tile-stats")["total_tiles"] == 0
    assert ask(url, "matcher-stats")["edges"] == 0
    assert ask(url, "low-quality-tiles") == []


def test_runs_are_found_by_what_their_tiles_show(url: str) -> None:
    runs = url.replace("/qc/m-1-t1", "/acquisitions")

    def count(**params: Any) -> int:
        answer = requests.get(runs, headers=HEADERS, params=params, timeout=30)
        found: int = answer.json()["metadata"]["total_count"]
        return found

    assert count(param_tile_focus_lt=0.4) == 1
    assert count(param_tile_focus_lt=0.2) == 0
    assert count(param_tile_match_quality_lt=1) == 1
    assert count(param_tile_dx_gt=5) == 1
    assert count(param_tile_dx_gt=8) == 0
    assert count(param_tile_dy_gt=1) == 0
