"""What a person looks at of a simulated stack: PNG pictures."""

from pathlib import Path

import cv2
import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.geometry import projected_nm
from em_platform.simulation.tilt_series.plan import FIDUCIAL, Plan
from em_platform.simulation.tilt_series.quality import (
    central,
    clean_file,
    defocus_of,
    section_in,
    section_of,
    tilt_of,
)
from em_platform.simulation.tilt_series.series import lens_of
from em_platform.simulation.tilt_series.thon import rings_picture
from em_platform.simulation.tilt_series.truth import Truth

PREVIEWS = "previews"
"""Folder of the pictures, in the folder of a stack."""

_SIDE_PX = 512
_SEEN_NM = 2.0  # blur: a single pixel of a tilt is mostly noise
_PARTICLE, _BEAD = (80, 220, 80), (60, 160, 255)  # blue, green, red


def write_previews(folder: Path, *, truth: Truth, sample: Sample) -> None:
    """Write all pictures of a stack into `previews/` of its folder."""
    (folder / PREVIEWS).mkdir(exist_ok=True)
    for name, picture in {
        "central_tilt": central_tilt(folder, truth),
        "thon_rings": thon_rings(folder, truth),
        "truth": truth_overlay(folder, truth),
        "sample": sample_slice(truth.plan, sample),
    }.items():
        (folder / PREVIEWS / f"{name}.png").write_bytes(picture)


def central_tilt(folder: Path, truth: Truth) -> bytes:
    """The image at the smallest angle, with its noise, a little blurred."""
    return _encoded(_sized(_seen(folder, truth)))


def truth_overlay(folder: Path, truth: Truth) -> bytes:
    """The same, with a ring round each particle and each bead of the truth."""
    grey = _seen(folder, truth)
    scale = _scale(grey.shape)
    picture = cv2.cvtColor(_sized(grey), cv2.COLOR_GRAY2BGR)
    plan, tilt = truth.plan, tilt_of(central(truth))
    height, width = grey.shape
    # Without the particles' sizes: a twentieth of the image.
    usual_nm = 0.04 * min(height, width) * plan.pixel_nm
    spots = [(p.position_nm, usual_nm, _PARTICLE) for p in truth.particles]
    spots += [(b.position_nm, b.diameter_nm, _BEAD) for b in truth.fiducials]
    for position_nm, radius, colour in spots:
        y, x = projected_nm(tilt, position_nm) / plan.pixel_nm
        row, column = y + height // 2, x + width // 2
        middle = (round(column * scale), round(row * scale))
        size = max(3, round(radius / plan.pixel_nm * scale))
        cv2.circle(picture, middle, size, colour, 1, cv2.LINE_AA)
    return _encoded(picture)


def thon_rings(folder: Path, truth: Truth) -> bytes:
    """The power spectrum of the image without noise; on the right as it should be."""
    tilt = central(truth)
    image = section_in(clean_file(folder, truth.stack), tilt.section)
    return _encoded(
        _sized(
            rings_picture(
                image,
                lens=lens_of(truth.plan),
                defocus=defocus_of(tilt),
                pixel_nm=truth.plan.pixel_nm,
            )
        )
    )


def sample_slice(plan: Plan, sample: Sample) -> bytes:
    """Where particles lie: along the beam, and from the side; beads are bright."""
    camera = plan.camera
    size_nm = (camera.width_px * plan.pixel_nm, camera.height_px * plan.pixel_nm)
    scale = _SIDE_PX / max(size_nm)
    width, height = (max(1, round(edge * scale)) for edge in size_nm)
    depth = max(8, round(plan.ice.thickness_nm * scale))
    picture = np.full((height + depth + 2, width), 20, np.uint8)
    picture[height : height + 2] = 255
    for particle in sample.particles:
        kind = sample.maps[particle.template]
        x, y, z = particle.position_nm
        colour = 255 if kind.name == FIDUCIAL else 130
        radius = max(2, round(kind.radius_nm * scale))
        column = round(x * scale + width / 2)
        for row in (
            round(y * scale + height / 2),
            round(z * scale + depth / 2) + height + 2,
        ):
            cv2.circle(picture, (column, row), radius, colour, 1, cv2.LINE_AA)
    return _encoded(picture)


def _seen(folder: Path, truth: Truth) -> NDArray[np.float32]:
    image = section_of(folder, truth, central(truth))
    sigma = _SEEN_NM / truth.plan.pixel_nm
    return np.asarray(scipy.ndimage.gaussian_filter(image, sigma), np.float32)


def _sized(grey: NDArray[np.generic]) -> NDArray[np.uint8]:
    shown = np.asarray(grey, np.float32)
    low, high = np.percentile(shown, [0.5, 99.5])
    shown = np.clip((shown - low) / max(float(high - low), 1e-9), 0, 1) * 255
    scale = _scale(shown.shape)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    sized = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=way)
    return np.asarray(sized, np.uint8)


def _scale(shape: tuple[int, ...]) -> float:
    return _SIDE_PX / max(shape)


def _encoded(picture: NDArray[np.generic]) -> bytes:
    _, content = cv2.imencode(".png", np.asarray(picture))
    return content.tobytes()
