"""A particle put together from several maps, each turned and moved into its place."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """About an axis of the whole through its origin, or of the part through its own."""

    axis: str
    degrees: float
    own: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Along the axes of the whole."""

    by_nm: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One map and how it comes to its place, step by step, from the origin."""

    map: DensityMap
    steps: tuple[Turn | Move, ...] = ()
    factor: float = 1.0
    """By which its potential is multiplied."""

    def pose(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The rotation `(3, 3)` and then the shift `(3,)`, nm, that the steps make."""
        turn, shift = np.eye(3), np.zeros(3)
        for step in self.steps:
            if isinstance(step, Move):
                shift = shift + np.asarray(step.by_nm)
                continue
            by = Rotation.from_euler(step.axis, step.degrees, degrees=True).as_matrix()
            if step.own:
                turn = turn @ by
            else:
                turn, shift = by @ turn, by @ shift
        return turn, shift


def side_of(parts: Sequence[Part], *, voxel_nm: float) -> int:
    """Voxels of a side of the cube round the origin that holds all parts; odd."""
    reach = max(
        float(np.linalg.norm(part.pose()[1])) + part.map.radius_nm for part in parts
    )
    return 2 * (int(np.ceil(reach / voxel_nm)) + 2) + 1


def padded(potential_v: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """A map in a cube, its middle voxel in the cube's; what is outside is cut."""
    whole = np.zeros((side, side, side), np.float32)
    into, out_of = [], []
    for n in potential_v.shape:
        begin = side // 2 - n // 2
        into.append(slice(max(begin, 0), min(begin + n, side)))
        out_of.append(slice(max(-begin, 0), min(side - begin, n)))
    whole[tuple(into)] = potential_v[tuple(out_of)]
    return whole


def composed(parts: Sequence[Part]) -> NDArray[np.float32]:
    """The sum of all parts, V `(z, y, x)`, on a cube of the first one's voxels."""
    voxel_nm = parts[0].map.voxel_nm
    side = side_of(parts, voxel_nm=voxel_nm)
    total = np.zeros((side, side, side), np.float32)
    for part in parts:
        turn, shift = part.pose()
        volume = part.map.potential_v
        scale = voxel_nm / part.map.voxel_nm
        # Arrays are (z, y, x): the same rotation with its axes in reverse.
        back = turn.T[::-1, ::-1]
        middle = np.asarray(volume.shape) // 2
        centre = np.full(3, side // 2) + shift[::-1] / voxel_nm
        total += np.float32(part.factor) * scipy.ndimage.affine_transform(
            volume,
            back * scale,
            offset=middle - scale * back @ centre,
            output_shape=total.shape,
            output=np.float32,
            order=1,
        )
    return total
