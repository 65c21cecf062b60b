from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.acquisition.recorder.events import Event
from em_platform.acquisition.recorder.montage import recorded_montage
from em_platform.errors import DataError
from em_platform.formats import write_tiff
from em_platform.model import Montage


def event(topic: str, body: dict[str, Any]) -> Event:
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    return Event(seq=1, topic=topic, body=body, headers={}, recorded_at=noon)


def montage(
    folder: Path,
    *,
    indices: Sequence[int],
    planned: int = 0,
    frames_at: Path | None = None,
    last_at: Path | None = None,
) -> Montage:
    """A row of tiles that were announced with these numbers in the raster.

    Frames are in `folder`, the last one in `last_at`.
    """
    frames, tiles = [], {}
    for column, index in enumerate(indices):
        is_last = column == len(indices) - 1
        path = (last_at if last_at and is_last else folder) / f"t{column}.tiff"
        write_tiff(path, np.full((48, 64), 7, np.uint8))
        place = {"stage_position": [column * 200, 0], "row": 0, "column": column}
        tile_id = f"t{column}"
        frames.append(
            event("tile.raw", {"tile_id": tile_id, "path": str(path)} | place)
        )
        tiles[tile_id] = {"raster_index": index, "raster_position": [column, 0]}
    body = {
        "montage_id": "m",
        "acquisition_id": "m-t1",
        "tiles": tiles,
        "start_time": "2026-01-02T03:04:05Z",
        "pixel_size": 4.0,
        "rotation_angle": 0.0,
    }
    return recorded_montage(
        event("montage.complete", body),
        frames,
        microscope="T1",
        magnification=2000,
        planned_tiles=planned,
        folder=frames_at,
    )


def test_a_frame_is_taken_from_nowhere_but_its_own_place(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    rule = frames / "m"
    outside = tmp_path / "outside"
    assert len(montage(rule, indices=(0, 1, 2), frames_at=frames).tiles) == 3
    found = montage(rule, indices=(0, 1, 2), frames_at=frames, last_at=outside)
    assert [tile.tile_id for tile in found.tiles] == ["t0", "t1"]
    [failure] = found.failures
    assert failure.item == "t2"
    assert f"its message names the frame '{outside}/t2.tiff', expected" in (
        failure.sentence
    )
    with pytest.raises(DataError):
        montage(outside, indices=(0, 1), frames_at=frames)


def test_tiles_that_were_planned_and_never_announced_are_missing(
    tmp_path: Path,
) -> None:
    found = montage(tmp_path, indices=(0, 1, 2, 3), planned=6)
    assert (len(found.tiles), found.expected_tiles) == (4, 6)
    [failure] = found.failures
    assert (failure.item, failure.sentence) == (
        "2 tiles of m",
        "montage m: 4 tiles were announced, 6 were planned; image the others again",
    )


@pytest.mark.parametrize(
    ("indices", "expected"),
    [((0, 1, 2), 3), ((1, 2, 3), 3), ((0, 1, 3), 4), ((1, 2, 5), 5)],
)
def test_a_gap_in_the_raster_is_a_missing_tile_where_no_status_was_recorded(
    tmp_path: Path, indices: tuple[int, ...], expected: int
) -> None:
    assert montage(tmp_path, indices=indices).expected_tiles == expected
