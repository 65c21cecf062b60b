"""Places and directions of particles that do not touch each other."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from em_platform.errors import ConfigError

TRIES = 200
"""Of one particle: random placing fills to about 0.38 of the volume, then jams
(random sequential adsorption of spheres; Talbot et al. 1991)."""

Point = NDArray[np.float64]


class Space:
    """Which spheres are there already, found again by a grid of cells."""

    def __init__(self, widest_nm: float) -> None:
        # Two spheres that touch lie in the same cell or in neighbours.
        self._cell_nm = 2 * max(widest_nm, 1e-3)
        self._cells: dict[tuple[int, int, int], list[tuple[Point, float]]] = {}

    def is_free(self, point: Point, radius_nm: float) -> bool:
        """Whether a sphere of this radius touches none of the others."""
        x, y, z = self._cell(point)
        return all(
            ((point - other) ** 2).sum() >= (radius_nm + other_radius) ** 2
            for i in (x - 1, x, x + 1)
            for j in (y - 1, y, y + 1)
            for k in (z - 1, z, z + 1)
            for other, other_radius in self._cells.get((i, j, k), ())
        )

    def add(self, point: Point, radius_nm: float) -> None:
        """Let a sphere take its room; no larger than `widest_nm`."""
        self._cells.setdefault(self._cell(point), []).append((point, radius_nm))

    def _cell(self, point: Point) -> tuple[int, int, int]:
        x, y, z = np.floor(point / self._cell_nm).astype(int).tolist()
        return x, y, z


def scattered(
    radii_nm: Sequence[float],
    *,
    box_nm: tuple[float, float, float],
    rng: np.random.Generator,
    taken: Sequence[tuple[Point, float]] = (),
) -> Point:
    """Random places `(n, 3)`, nm `(x, y, z)`, of spheres that do not overlap.

    Parameters
    ----------
    radii_nm
        Of the spheres.
    box_nm
        Sides `(x, y, z)` of the box round the origin in which their middles lie.
    taken
        Middles and radii that are there already.

    Raises
    ------
    ConfigError
        They do not fit.
    """
    half = np.asarray(box_nm) / 2
    space = Space(max([*radii_nm, *(r for _, r in taken)], default=1.0))
    for point, radius in taken:
        space.add(point, radius)
    places = np.empty((len(radii_nm), 3))
    for number, radius in enumerate(radii_nm):
        for _ in range(TRIES):
            point = rng.uniform(-half, half)
            if space.is_free(point, radius):
                break
        else:
            raise ConfigError(
                f"sample: found room for {number} of {len(radii_nm)} particles in "
                f"{box_nm[0]:.0f} x {box_nm[1]:.0f} x {box_nm[2]:.0f} nm without "
                "overlaps; ask for fewer, or for thicker ice"
            )
        places[number] = point
        space.add(point, radius)
    return places


def directions(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Rotations `(n, 3, 3)`, even over all directions (Shoemake 1992)."""
    quaternions = rng.standard_normal((count, 4))
    if not count:
        return np.empty((0, 3, 3))
    return Rotation.from_quat(quaternions).as_matrix()


def pointing(axis: Point, spin_rad: float) -> NDArray[np.float64]:
    """The rotation `(3, 3)` that turns z to `axis`, after a spin about z."""
    axis = axis / np.linalg.norm(axis)
    azimuth, polar = np.arctan2(axis[1], axis[0]), np.arccos(np.clip(axis[2], -1, 1))
    return Rotation.from_euler("ZYZ", [azimuth, polar, spin_rad]).as_matrix()
