"""Places and directions of particles that do not touch each other."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from em_platform.errors import ConfigError

_TRIES = 200
"""Of one particle: random placing fills to about 0.38 of the volume, then jams
(random sequential adsorption of spheres; Talbot et al. 1991)."""


def scattered(
    radii_nm: Sequence[float],
    *,
    box_nm: tuple[float, float, float],
    rng: np.random.Generator,
    taken: Sequence[tuple[NDArray[np.float64], float]] = (),
) -> NDArray[np.float64]:
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
    widest = max([*radii_nm, *(r for _, r in taken)], default=1.0)
    cells: dict[tuple[int, int, int], list[tuple[NDArray[np.float64], float]]] = {}

    def cell(point: NDArray[np.float64]) -> tuple[int, int, int]:
        x, y, z = np.floor(point / (2 * widest)).astype(int).tolist()
        return x, y, z

    def free(point: NDArray[np.float64], radius: float) -> bool:
        x, y, z = cell(point)
        return all(
            ((point - other) ** 2).sum() >= (radius + other_radius) ** 2
            for i in (x - 1, x, x + 1)
            for j in (y - 1, y, y + 1)
            for k in (z - 1, z, z + 1)
            for other, other_radius in cells.get((i, j, k), ())
        )

    for point, radius in taken:
        cells.setdefault(cell(point), []).append((point, radius))
    places = np.empty((len(radii_nm), 3))
    for number, radius in enumerate(radii_nm):
        for _ in range(_TRIES):
            point = rng.uniform(-half, half)
            if free(point, radius):
                break
        else:
            raise ConfigError(
                f"sample: found room for {number} of {len(radii_nm)} particles in "
                f"{box_nm[0]:.0f} x {box_nm[1]:.0f} x {box_nm[2]:.0f} nm without "
                "overlaps; ask for fewer, or for thicker ice"
            )
        places[number] = point
        cells.setdefault(cell(point), []).append((point, radius))
    return places


def directions(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Rotations `(n, 3, 3)`, even over all directions (Shoemake 1992)."""
    quaternions = rng.standard_normal((count, 4))
    return Rotation.from_quat(quaternions).as_matrix()
