"""A finished stack as other programs see it: aligned, its tilt axis along y.

Programs for tomography turn the images until the tilt axis is vertical, and count
places in that frame. It is ours turned by `frame` about z; `AlignedTilt` is how each
image comes of it: Rz(z) Ry(y) Rx(x), then the shift. Any rotation can be written so.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from em_platform.simulation.tilt_series.truth import Truth, read_truth

_ROOM = 1.2  # of a tomogram's thickness: the ice and some empty room


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedTilt:
    """How one image comes of the specimen, in degrees and pixels."""

    z_deg: float
    y_deg: float
    x_deg: float
    shift_px: tuple[float, float]
    """`(x, y)` of the specimen's middle from pixel `n // 2`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedParticle:
    """A particle in the aligned frame."""

    name: str
    place_px: tuple[float, float, float]
    """`(x, y, z)` from the middle of the tomogram."""
    turn: Rotation
    """From the axes of its map to those of the tomogram."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A stack of a data set with its truth."""

    folder: Path
    truth: Truth

    @property
    def number(self) -> int:
        """Of the tomogram, from 1; the same whichever others are exported with it."""
        return self.truth.number + 1

    @property
    def name(self) -> str:
        """Of the stack."""
        return self.truth.stack

    @property
    def stack_file(self) -> Path:
        """The images with noise."""
        return self.folder / f"{self.name}.mrc"

    @property
    def pixel_a(self) -> float:
        """Size of a pixel, Å."""
        return 10 * self.truth.plan.pixel_nm

    @property
    def size_px(self) -> tuple[int, int, int]:
        """Of the tomogram, `(x, y, z)`: the field of view and the ice."""
        plan = self.truth.plan
        turn = np.abs(self._frame().as_matrix()[:2, :2])
        field = turn @ [plan.camera.width_px, plan.camera.height_px]
        depth = _ROOM * plan.ice.thickness_nm / plan.pixel_nm
        x, y, z = (2 * round(side / 2) for side in (*field.tolist(), depth))
        return x, y, z

    def tilts(self) -> list[AlignedTilt]:
        """Each section of the stack, as it really was."""
        return [
            self._aligned(
                tilt.axis_deg, tilt.tilt_deg, (tilt.shift_nm[1], tilt.shift_nm[0])
            )
            for tilt in self.truth.tilts
        ]

    def particles(self) -> list[AlignedParticle]:
        """All particles that are no beads."""
        frame = self._frame()
        found = []
        for each in self.truth.particles:
            x, y, z = (
                frame.apply(each.position_nm) / self.truth.plan.pixel_nm
            ).tolist()
            turn = frame * Rotation.from_quat(each.quaternion_xyzw)
            found.append(AlignedParticle(name=each.name, place_px=(x, y, z), turn=turn))
        return found

    def _aligned(
        self, axis_deg: float, tilt_deg: float, shift_nm: tuple[float, float]
    ) -> AlignedTilt:
        angles = [axis_deg, tilt_deg, -axis_deg]
        to_detector = Rotation.from_euler("ZXZ", angles, degrees=True)
        turn = to_detector * self._frame().inv()
        z, y, x = turn.as_euler("ZYX", degrees=True).tolist()
        pixel_nm = self.truth.plan.pixel_nm
        shift = shift_nm[0] / pixel_nm, shift_nm[1] / pixel_nm
        return AlignedTilt(z_deg=z, y_deg=y, x_deg=x, shift_px=shift)

    def _frame(self) -> Rotation:
        """From our axes to those of the tomogram: the nominal tilt axis becomes y."""
        return Rotation.from_euler(
            "z", 90 - self.truth.plan.tilts.axis_deg, degrees=True
        )


def read_finished(folder: Path) -> Finished:
    """A stack's folder, as `simulate` left it.

    Raises
    ------
    FormatError
        It has no truth that can be read.
    """
    return Finished(folder=folder, truth=read_truth(folder))


def classes(finished: Finished) -> dict[str, int]:
    """A number for each kind of particle, from 1."""
    names = sorted({each.name for each in finished.truth.particles})
    return {name: number for number, name in enumerate(names, 1)}


def corner_px(particle: AlignedParticle, finished: Finished) -> NDArray[np.float64]:
    """Its place in voxels from 0 at the first one; the middle is voxel `n // 2`."""
    place = np.asarray(particle.place_px) + np.asarray(finished.size_px) // 2
    return np.asarray(place, np.float64)
