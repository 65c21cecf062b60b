"""Where the specimen is while a tilt is taken, and how much of it the beam crosses.

The specimen's axes `(x, y, z)` are nm from its middle, z along the untilted beam. A
point of the specimen is `rotation(tilt)` times one of the detector (the convention of
TEM-simulator 1.3, so that its poses and ours are the same numbers).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from em_platform.simulation.tilt_series.optics import Defocus


@dataclass(frozen=True, slots=True, kw_only=True)
class Tilt:
    """One image of a tilt series, as it really was: with the errors of the stage."""

    index: int
    """Of its section in the stack, by rising nominal angle."""
    order: int
    """When it was taken: 0 is the first image."""
    nominal_deg: float
    tilt_deg: float
    axis_deg: float
    shift_nm: tuple[float, float]
    """`(y, x)` of the specimen's middle on the detector."""
    dose_per_nm2: float
    prior_dose_per_nm2: float
    defocus: Defocus


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """Ice in a round hole of a carbon film, nm; without a hole, ice without end."""

    thickness_nm: float = 100.0
    edge_thickness_nm: float = 0.0
    """Of the ice at the hole's edge and of the film; 0: as in the middle."""
    hole_nm: float = 0.0
    """Diameter of the hole; 0: no film."""


def rotation(tilt: Tilt) -> NDArray[np.float64]:
    """`(3, 3)` from the detector's axes to the specimen's: Rz(a) Rx(-tilt) Rz(-a)."""
    turn = Rotation.from_euler(
        "ZXZ", [tilt.axis_deg, -tilt.tilt_deg, -tilt.axis_deg], degrees=True
    )
    return turn.as_matrix()


def projected_nm(
    tilt: Tilt, position_nm: tuple[float, float, float]
) -> NDArray[np.float64]:
    """Where a point `(x, y, z)` of the specimen is seen: `(y, x)` from the middle."""
    x, y, _ = rotation(tilt).T @ np.asarray(position_nm)
    return np.array([y + tilt.shift_nm[0], x + tilt.shift_nm[1]])


def is_even(film: Film, tilt: Tilt, *, shape: tuple[int, int], pixel_nm: float) -> bool:
    """Whether all electrons of an image cross the same length of ice, and no carbon."""
    if not film.hole_nm:
        return True
    if film.edge_thickness_nm not in (0, film.thickness_nm):
        return False
    turn = rotation(tilt)
    beam = turn[:, 2]
    # Where rays cross the ice is linear in their pixel: the corners are furthest out.
    y = np.array([0, 0, shape[0], shape[0]]) - shape[0] // 2
    x = np.array([0, shape[1], 0, shape[1]]) - shape[1] // 2
    corners = turn[:, :2] @ np.stack(
        [x * pixel_nm - tilt.shift_nm[1], y * pixel_nm - tilt.shift_nm[0]]
    )
    middle = corners[:2] - beam[:2, None] / beam[2] * corners[2]
    slant = np.hypot(beam[0], beam[1]) / abs(beam[2]) * film.thickness_nm / 2
    return bool((np.hypot(*middle) + slant).max() < film.hole_nm / 2)


def paths(
    film: Film, tilt: Tilt, *, shape: tuple[int, int], pixel_nm: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lengths in ice and in carbon that each pixel's electrons cross, nm, `(h, w)`."""
    turn = rotation(tilt)
    beam = turn[:, 2]
    if not film.hole_nm:
        length = film.thickness_nm / abs(beam[2])
        return np.full(shape, length, np.float32), np.zeros(shape, np.float32)
    height, width = shape
    y = ((np.arange(height) - height // 2) * pixel_nm - tilt.shift_nm[0])[:, None]
    x = ((np.arange(width) - width // 2) * pixel_nm - tilt.shift_nm[1])[None, :]
    px, py, pz = (turn[i, 0] * x + turn[i, 1] * y for i in range(3))
    edge = film.edge_thickness_nm or film.thickness_nm
    radius = film.hole_nm / 2
    # The ice is a lens: a parabola from its middle to the hole's edge. Its thickness is
    # taken where the ray crosses the middle plane, which is exact for an even film.
    middle = -pz / beam[2]
    across = np.hypot(px + middle * beam[0], py + middle * beam[1]) / radius
    inside = np.minimum(across, 1) ** 2
    thickness = film.thickness_nm + (edge - film.thickness_nm) * inside
    enter = (-thickness / 2 - pz) / beam[2]
    leave = (thickness / 2 - pz) / beam[2]
    enter, leave = np.minimum(enter, leave), np.maximum(enter, leave)
    first, last = _through_cylinder(px, py, beam, radius)
    ice = np.clip(np.minimum(leave, last) - np.maximum(enter, first), 0, None)
    carbon = (leave - enter) - ice
    return ice.astype(np.float32), carbon.astype(np.float32)


def _through_cylinder(
    px: NDArray[np.float64],
    py: NDArray[np.float64],
    beam: NDArray[np.float64],
    radius: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where rays enter and leave an upright cylinder; empty where they miss it."""
    slant = beam[0] ** 2 + beam[1] ** 2
    if slant < 1e-12:  # along the cylinder: inside for ever, or never
        within = px**2 + py**2 < radius**2
        return np.where(within, -np.inf, np.inf), np.where(within, np.inf, -np.inf)
    half = (px * beam[0] + py * beam[1]) / slant
    root = half**2 - (px**2 + py**2 - radius**2) / slant
    reach = np.sqrt(np.maximum(root, 0))
    missed = root <= 0
    return (
        np.where(missed, np.inf, -half - reach),
        np.where(missed, -np.inf, -half + reach),
    )
