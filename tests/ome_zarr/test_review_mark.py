from pathlib import Path
from typing import Any

import pytest
import zarr

from em_platform.formats import review_at
from em_platform.formats.chunked.zarr import review_in
from em_platform.model import Review, ReviewStatus
from em_platform.ome_zarr import mosaic_attributes

BAD = Review(status=ReviewStatus.NEEDS_REVIEW, reasons=("Missing: 2 of 16 tiles.",))


def test_a_mosaic_gives_back_the_review_that_was_written(tmp_path: Path) -> None:
    url = str(tmp_path / "m.zarr")
    zarr.create_group(url, attributes=mosaic_attributes((0, 0), BAD))
    assert review_at(url, options={}) == BAD


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"em_platform": "1.0"},
        {"em_platform": {"origin_px": [0, 0]}},
        {"em_platform": {"review": {"status": "of a later version"}}},
        {"em_platform": {"review": ["needs_review"]}},
    ],
)
def test_an_image_without_a_review_that_we_know_has_none(
    attributes: dict[str, Any],
) -> None:
    assert review_in(attributes) is None
