"""The displacement field of a lens model at points, both ways."""

import numpy as np
import numpy.typing as npt

from em_platform.model import LensModel, Size

Array = npt.NDArray[np.float64]

INVERSION_STEPS = 20  # each gains at least one digit for any field we accept


def normalised(y: Array, x: Array, *, size: Size) -> tuple[Array, Array]:
    """`u, v` of a lens model's polynomial for pixels `y, x`."""
    # 1 at the middle of the longer edge: high powers stay small, and
    # coefficients are pixels there.
    scale = 2.0 / max(size.height_px, size.width_px)
    u = (np.asarray(y, np.float64) - 0.5 * (size.height_px - 1)) * scale
    v = (np.asarray(x, np.float64) - 0.5 * (size.width_px - 1)) * scale
    return u, v


def basis(u: Array, v: Array, *, degree: int) -> Array:
    """Monomials `u**i * v**j` in the order of increasing `i + j`, then of `j`.

    Returns
    -------
        `(..., (degree + 1) * (degree + 2) / 2)`.
    """
    powers_u, powers_v = [np.ones_like(u)], [np.ones_like(v)]
    for _ in range(degree):
        powers_u.append(powers_u[-1] * u)
        powers_v.append(powers_v[-1] * v)
    columns = [
        powers_u[total - j] * powers_v[j]
        for total in range(degree + 1)
        for j in range(total + 1)
    ]
    return np.stack(columns, axis=-1)


def lens_field(model: LensModel, y: Array, x: Array) -> tuple[Array, Array]:
    """Displacement `(dy, dx)` in pixels from where a point was measured.

    Parameters
    ----------
    y, x
        Any equal shapes; pixels of the raw tile.
    """
    u, v = normalised(y, x, size=model.size)
    columns = basis(u, v, degree=model.degree)
    return columns @ np.array(model.dy_px), columns @ np.array(model.dx_px)


def undistort_points(model: LensModel, points: Array) -> Array:
    """Places that points measured in a raw tile have without the lens's distortion.

    Parameters
    ----------
    points
        `(n, 2)` as `(y, x)`.
    """
    dy, dx = lens_field(model, points[:, 0], points[:, 1])
    return points + np.stack([dy, dx], axis=1)


def distort_points(model: LensModel, points: Array) -> Array:
    """Places in the raw tile of points of the corrected one, by fixed-point iteration.

    Parameters
    ----------
    points
        `(n, 2)` as `(y, x)`.
    """
    raw = points.copy()
    for _ in range(INVERSION_STEPS):
        raw += points - undistort_points(model, raw)
    return raw
