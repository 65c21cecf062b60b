"""Pictures by which a person judges a stack: a tilt, its rings, sample and truth."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import mrcfile
import numpy as np
from numpy.typing import NDArray

from em_platform.formats.volume_pictures import mid_sections
from em_platform.simulation.tilt_series.geometry import projected_nm
from em_platform.simulation.tilt_series.labels import LABELS
from em_platform.simulation.tilt_series.optics import aberration
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.series import lens_of, tilts_of
from em_platform.simulation.tilt_series.truth import Truth

PREVIEWS = "previews"
"""Folder of the pictures, in the folder of a stack."""

_MOST_PX = 512
_TILE_PX = 256  # of the pieces whose power spectra are averaged
_GREY = (0.5, 99.5)  # percentiles: beads must not set the contrast
_PARTICLE, _BEAD = (64, 220, 64), (64, 160, 255)  # BGR

Picture = NDArray[np.uint8]


def previews(folder: Path, *, truth: Truth) -> Mapping[str, bytes]:
    """PNG pictures of a stack's folder by their names, each at most 512 pixels wide.

    `central_tilt`, `thon_rings` (left the measured power spectrum, right that of the
    true defocus), `truth` (particles and beads where they are in the central tilt),
    and `sample` (middle sections of the labels) where there are labels.
    """
    plan, name = truth.plan, truth.stack
    tilt = min(truth.tilts, key=lambda each: abs(each.nominal_deg))
    with mrcfile.mmap(folder / f"{name}.mrc") as file:
        stack = file.data.reshape(-1, *file.data.shape[-2:])
        image = np.array(stack[tilt.section])
    shown = _grey(_smaller(image))
    pictures = {
        "central_tilt": shown,
        "thon_rings": _rings(image, plan, truth.number, tilt.section),
        "truth": _overlay(shown, truth, tilt.section),
    }
    found = {key: _png(picture) for key, picture in pictures.items()}
    if (folder / LABELS).is_dir():
        found["sample"] = mid_sections(str(folder / LABELS), max_px=_MOST_PX // 2)
    return found


def _smaller(image: NDArray[np.float32]) -> NDArray[np.float32]:
    scale = _MOST_PX / max(image.shape)
    if scale >= 1:
        return image
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _grey(image: NDArray[np.float32]) -> Picture:
    low, high = (float(each) for each in np.percentile(image, _GREY))
    levels = 255 * (image - low) / max(high - low, 1e-9)
    return np.asarray(np.clip(levels, 0, 255), np.uint8)


def _rings(image: NDArray[np.float32], plan: Plan, stack: int, section: int) -> Picture:
    """Half measured, half of the true defocus, as CTFFIND shows its fits."""
    side = min(_TILE_PX, *image.shape)
    side -= side % 2
    window = np.hanning(side)[:, None] * np.hanning(side)[None, :]
    power = np.zeros((side, side))
    for top in range(0, image.shape[0] - side + 1, side // 2):
        for left in range(0, image.shape[1] - side + 1, side // 2):
            tile = image[top : top + side, left : left + side]
            power += np.abs(np.fft.fft2((tile - tile.mean()) * window)) ** 2
    power = np.fft.fftshift(power)
    y, x = np.indices(power.shape) - side // 2
    ring = np.rint(np.hypot(y, x)).astype(int)
    # Without its fall towards fine detail, the rings alone are left.
    mean = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())
    kernel = np.ones(9) / 9
    fall = np.convolve(np.pad(mean, 4, mode="edge"), kernel, mode="valid")
    measured = _grey((power / np.maximum(fall[ring], 1e-30)).astype(np.float32))
    tilt = tilts_of(plan, stack)[section]
    q = (np.arange(side) - side // 2) / (side * plan.pixel_nm)
    lens = lens_of(plan)
    chi = aberration(q[:, None], q[None, :], lens=lens, defocus=tilt.defocus)
    chi += lens.phase_plate_rad + np.arcsin(lens.amplitude_contrast)
    expected = (255 * np.sin(chi) ** 2).astype(np.uint8)
    return np.hstack([measured[:, : side // 2], expected[:, side // 2 :]])


def _overlay(shown: Picture, truth: Truth, section: int) -> Picture:
    plan = truth.plan
    picture = cv2.cvtColor(shown, cv2.COLOR_GRAY2BGR)
    scale = shown.shape[1] / plan.camera.width_px
    tilt = tilts_of(plan, truth.number)[section]
    for each, colour, radius in (
        *((p.position_nm, _PARTICLE, 6) for p in truth.particles),
        *(
            (f.position_nm, _BEAD, f.diameter_nm / 2 / plan.pixel_nm * scale + 2)
            for f in truth.fiducials
        ),
    ):
        y, x = projected_nm(tilt, each) / plan.pixel_nm
        place = (x + plan.camera.width_px // 2, y + plan.camera.height_px // 2)
        middle = round(place[0] * scale), round(place[1] * scale)
        cv2.circle(picture, middle, round(radius), colour, 1, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def _png(picture: Picture) -> bytes:
    _, content = cv2.imencode(".png", picture)
    return content.tobytes()
