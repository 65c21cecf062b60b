"""A look at what was made: whether the mosaic is whole and the lens model good."""

from collections.abc import Mapping
from typing import Any

import cv2

from em_platform.errors import PlatformError
from em_platform.formats import level_count, open_level, preview
from em_platform.model import Check, LensModel, Severity
from em_platform.stitching.render import Mosaic

_LENS_MEAN_PX = 0.2  # limits of a good solve in em_stitch
_LENS_STD_PX = 2.0
_JPEG_QUALITY = 80
_PREVIEW_PX = 800


def mosaic_preview(url: str, *, options: Mapping[str, Any]) -> bytes:
    """The whole mosaic, small, as a JPEG."""
    image = preview(url, _PREVIEW_PX, storage_options=dict(options))
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return bytes(encoded)


def check_mosaic(mosaic: Mosaic, *, options: Mapping[str, Any]) -> tuple[Check, ...]:
    """Whether every level of the mosaic can be opened and has the expected size."""
    wrong = _what_is_wrong(mosaic, dict(options))
    height, width = mosaic.shape
    good = f"{mosaic.levels} levels from {height} x {width} px can be read"
    return (
        Check(
            name="mosaic_is_valid",
            passed=not wrong,
            severity=Severity.ERROR,
            sentence=f"mosaic {mosaic.url}: {wrong or good}",
        ),
    )


def check_lens(lens: LensModel) -> tuple[Check, ...]:
    """Whether the lens model explains the matches as well as em_stitch asks."""
    passed = (
        lens.residual_mean_px <= _LENS_MEAN_PX and lens.residual_std_px <= _LENS_STD_PX
    )
    return (
        Check(
            name="lens_fits_well",
            passed=passed,
            severity=Severity.ERROR,
            sentence=f"lens of {lens.microscope} at {lens.magnification} x: residual "
            f"mean {lens.residual_mean_px:.3f} px (at most {_LENS_MEAN_PX}), std "
            f"{lens.residual_std_px:.3f} px (at most {_LENS_STD_PX}), "
            f"{lens.points} points",
            value=lens.residual_std_px,
            limit=_LENS_STD_PX,
        ),
    )


def _what_is_wrong(mosaic: Mosaic, options: dict[str, Any]) -> str:
    try:
        levels = level_count(mosaic.url, storage_options=options)
        first = open_level(mosaic.url, 0, storage_options=options)
        last = open_level(mosaic.url, levels - 1, storage_options=options)
        last[-1:, -1:]
    except PlatformError as error:
        return str(error)
    if levels != mosaic.levels or tuple(first.shape) != mosaic.shape:
        return (
            f"found {levels} levels from {first.shape}, expected {mosaic.levels} from "
            f"{mosaic.shape}; run the step again"
        )
    return ""
