"""The geometry of a tilt series: what an alignment finds, and how well it holds."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from em_platform.cryoem.methods.tilt_images import Images, Numbers

# Along each side: parts of an image whose places are compared with the prediction.
_PATCHES = 3
# Of an image's side: a part whose place is less certain says nothing.
_MOST_PART_ERROR = 0.01
# Images hold frequencies below 0.35 a pixel alone, so fewer pixels are independent.
_INDEPENDENT = np.pi * 0.35**2
_SINGULAR = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Geometry of a series; shifts `(n, 2)` are dx, dy in pixels of some level."""

    shifts_px: Numbers
    axis_deg: float
    offset_deg: float
    thickness_px: float

    def at_scale(self, factor: float) -> "Pose":
        """The same in pixels that are `factor` times smaller."""
        return replace(
            self,
            shifts_px=self.shifts_px * factor,
            thickness_px=self.thickness_px * factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A value and its standard error; None where the series does not say."""

    value: float | None = None
    error: float | None = None

    def at_scale(self, factor: float) -> "Measured":
        """The same in units that are `factor` times smaller."""
        value, error = (
            None if x is None else x * factor for x in (self.value, self.error)
        )
        return Measured(value=value, error=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The geometry in pixels of the images given, and how well it holds.

    Attributes
    ----------
    correlation
        `(n,)`: of each image with what all others predict of it.
    residual_px
        `(n,)`: root mean square of how far parts of an image are from that.
    offset, thickness
        Of the specimen: its tilt in degrees, and pixels of the images given. The pose
        has the offset only where it is well above its error.
    is_rod
        A needle that turns about itself: no axis was sought.
    """

    pose: Pose
    correlation: Numbers
    residual_px: Numbers
    offset: Measured = Measured()
    thickness: Measured = Measured()
    is_rod: bool = False


def turned(moves: Numbers, tilts_rad: Numbers, axis_deg: float) -> Numbers:
    """Moves in stretched, upright images as dx, dy of the images themselves."""
    across, along = moves[:, 0] * np.cos(tilts_rad), moves[:, 1]
    cos, sin = np.cos(np.deg2rad(axis_deg)), np.sin(np.deg2rad(axis_deg))
    return np.stack([cos * across - sin * along, sin * across + cos * along], axis=1)


def residuals(images: Images, expected: Images, cosines: Numbers) -> Numbers:
    """Root mean square, by image, of how far its parts lie from where they should.

    An image is expected + slope of expected times the move (Lucas & Kanade 1981). What
    noise alone would move is subtracted, and parts that show nothing do not count; an
    image without any other is NaN.
    """
    out = np.full(len(images), np.nan)
    for i, (image, other) in enumerate(zip(images, expected, strict=True)):
        slopes = np.gradient(other)
        moves = []
        for part in _parts(image.shape):
            basis = np.stack([x[part].ravel() for x in (other, *slopes)], axis=1)
            moves.append(_move(basis, image[part].ravel(), cosines[i]))
        squares, errors = np.array(moves).T
        counts = errors < (_MOST_PART_ERROR * max(image.shape)) ** 2
        if counts.any():
            weights = 1 / (errors[counts] + 1)
            square = np.average(squares[counts] - errors[counts], weights=weights)
            out[i] = np.sqrt(max(float(square), 0.0))
    return out


def _move(basis: Numbers, image: Numbers, cosine: float) -> tuple[float, float]:
    """Square of a part's move in px, and the square of its standard error."""
    normal = basis.T @ basis
    if np.linalg.cond(normal) > _SINGULAR:
        return 0.0, np.inf
    share, along, across = np.linalg.solve(normal, basis.T @ image)
    if share <= 0:
        return 0.0, np.inf
    left = image - basis @ np.array([share, along, across])
    free = len(image) * _INDEPENDENT
    errors = np.diag(np.linalg.inv(normal)) / _INDEPENDENT * (left @ left / free)
    scale = np.array([1, cosine]) / share
    square = np.sum((scale * (along, across)) ** 2)
    return float(square), float(np.sum(scale**2 * errors[1:]))


def _parts(shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    rows, columns = (np.linspace(0, side, _PATCHES + 1).astype(int) for side in shape)
    return [
        (slice(y0, y1), slice(x0, x1))
        for y0, y1 in pairwise(rows)
        for x0, x1 in pairwise(columns)
    ]


def centred(pose: Pose, tilts_rad: Numbers) -> Pose:
    """The same geometry with no shift of the least tilted image.

    A series cannot say where its specimen's middle is in x and y; that image's middle
    is taken, as IMOD and AreTomo do.
    """
    cos, sin = np.cos(np.deg2rad(pose.axis_deg)), np.sin(np.deg2rad(pose.axis_deg))
    across = cos * pose.shifts_px[:, 0] + sin * pose.shifts_px[:, 1]
    along = cos * pose.shifts_px[:, 1] - sin * pose.shifts_px[:, 0]
    middle = int(np.argmin(np.abs(tilts_rad)))
    across = across - across[middle] * np.cos(tilts_rad) / np.cos(tilts_rad[middle])
    along = along - along[middle]
    shifts = np.stack([cos * across - sin * along, sin * across + cos * along], axis=1)
    return replace(pose, shifts_px=shifts)
