"""A tomogram is as fine and as high as its images and its specimen allow."""

import pytest

from em_platform.cryoem.methods.tomogram_size import tomogram_size
from em_platform.errors import ConfigError


@pytest.mark.parametrize(
    ("side", "thickness", "binning", "height", "reason"),
    [
        # As cryoem-services' AreTomo service has it of its camera.
        (
            4096,
            500.0,
            4,
            900,
            "of 4096 px 1024 are left; 900 px of the stack high: of a thickness",
        ),
        (
            4096,
            63.0,
            4,
            600,
            "600 px of the stack high: the least, of a thickness of 63 px",
        ),
        (4096, 1600.0, 4, 1800, "the most, of a thickness of 1600 px and 400 px more"),
        # round3 1.1.6: 64² of 256², and 600 px for a rod of 63 px.
        (
            256,
            63.0,
            1,
            88,
            "binned by 1: of 256 px 256 are left; 88 px of the stack high: of a",
        ),
        (
            1024,
            63.0,
            2,
            163,
            "binned by 2: of 1024 px 512 are left; 163 px of the stack high",
        ),
        (256, None, 1, 128, "half of an image, as no thickness was found"),
    ],
)
def test_the_size_is_chosen_and_says_why(
    side: int, thickness: float | None, binning: int, height: int, reason: str
) -> None:
    found = tomogram_size(
        (41, side, side),
        thickness_px=thickness,
        binning=None,
        height_px=None,
        least_px=None,
        more_px=None,
        most_px=1800,
    )
    assert (found.binning, found.height_px) == (binning, height)
    assert reason in found.reason


def test_what_is_asked_for_is_done() -> None:
    """round3 1.1.6: and the reason says so."""
    found = tomogram_size(
        (41, 256, 256),
        thickness_px=63,
        binning=4,
        height_px=None,
        least_px=600,
        more_px=0,
        most_px=1800,
    )
    assert (found.binning, found.height_px) == (4, 600)
    assert found.reason.startswith(
        "binned by 4: as asked; 600 px of the stack high: the least"
    )


def test_a_least_height_above_the_greatest_is_refused() -> None:
    """round3 1.1.6, its neighbours: least 600 and greatest 100 made 100."""
    with pytest.raises(ConfigError, match="least height 600 px above the greatest"):
        tomogram_size(
            (41, 256, 256),
            thickness_px=63,
            binning=None,
            height_px=None,
            least_px=600,
            more_px=None,
            most_px=100,
        )
