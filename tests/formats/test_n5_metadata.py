"""The dialects of N5 say where each level lies in space."""

import json
from pathlib import Path
from typing import Any

import pytest

from em_platform.formats.chunked import level_paths, open_chunked
from tests.formats.chunk_writers import (
    noise,
    write_n5,
)
from tests.ingest.serving import Answer, Asked, serving

COSEM = {"axes": ["z", "y", "x"], "units": ["nm"] * 3, "translate": [1.5, 0.0, 7.0]}


N5_DIALECTS: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "COSEM group": (
        {
            "multiscales": [
                {
                    "datasets": [
                        {"path": "s0", "transform": {**COSEM, "scale": [5.24, 4, 4]}},
                        {"path": "s1", "transform": {**COSEM, "scale": [9.0, 8, -8]}},
                    ]
                }
            ]
        },
        {},
        ((9.0, 8.0, 8.0), (1.5, 0.0, 7.0)),
    ),
    "COSEM array": (
        {},
        {"transform": {**COSEM, "scale": [5.0, 8.0, 6.0]}},
        ((5.0, 8.0, 6.0), (1.5, 0.0, 7.0)),
    ),
    "pixelResolution of the array": (
        {},
        {"pixelResolution": {"dimensions": [8.0, 7.0, 6.0], "unit": "nm"}},
        ((6.0, 7.0, 8.0), (0.0, 0.0, 0.0)),
    ),
    "n5-viewer": (
        {"pixelResolution": {"dimensions": [0.004, 0.005, 0.006], "unit": "um"}},
        {"downsamplingFactors": [2, 2, 1]},
        ((6.0, 10.0, 8.0), (0.0, 2.5, 2.0)),
    ),
    "scales": (
        {"pixelResolution": [4, 5, 6], "scales": [[1, 1, 1], [2, 2, 2]]},
        {},
        ((12.0, 10.0, 8.0), (3.0, 2.5, 2.0)),
    ),
    "Paintera": (
        {"resolution": [4, 4, 40], "offset": [100, 0, 0]},
        {"downsamplingFactors": [2, 2, 1]},
        ((40.0, 8.0, 8.0), (0.0, 2.0, 102.0)),
    ),
    "silent": ({}, {}, (None, (0.0, 0.0, 0.0))),
}


@pytest.mark.parametrize("dialect", N5_DIALECTS)
def test_n5_dialects_say_voxel_and_place_of_a_level(
    dialect: str, tmp_path: Path
) -> None:
    group, array, (voxel_nm, origin_nm) = N5_DIALECTS[dialect]
    write_n5(tmp_path / "em/s0", noise())
    write_n5(tmp_path / "em/s1", noise()[::2, ::2, ::2], **array)
    (tmp_path / "em/attributes.json").write_text(json.dumps(group))
    for url, level in ((tmp_path / "em", "s1"), (tmp_path / "em/s1", 0)):
        info = open_chunked(str(url), level=level).info
        assert (info.format, info.shape) == ("N5", (11, 17, 23))
        assert (info.voxel_size_nm, info.origin_nm) == (voxel_nm, origin_nm)


def test_a_server_that_always_has_one_more_level_is_not_asked_for_ever() -> None:
    level = {
        "dimensions": [9, 9, 9],
        "blockSize": [3, 3, 3],
        "dataType": "uint8",
        "compression": {"type": "raw"},
    }
    asked: list[str] = []

    def answer(request: Asked) -> Answer:
        asked.append(request.path)
        # So that this test ends with the old code, too.
        if "/s" not in request.path or len(asked) > 200:
            return Answer(status=404)
        return Answer(body=json.dumps(level).encode())

    with serving(answer) as at:
        assert len(level_paths(at.url, format="n5")) == 30
    assert len(asked) <= 32
