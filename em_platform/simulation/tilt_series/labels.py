"""Which particle is where: the sample as a volume of labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from em_platform.config.ingest import OutputSettings
from em_platform.model.volume import VolumeInfo
from em_platform.ome_zarr import write_volume
from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap, Sample
from em_platform.simulation.tilt_series.plan import FIDUCIAL, Plan
from em_platform.storage.manifest import Product

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

_BODY = 0.25
"""Of a map's largest potential at the resolution of a voxel: more is the particle."""

_LEAST_BLUR_NM = 0.3  # between the atoms of a protein
LABELS = "labels.zarr"
_OUTPUT = OutputSettings(chunk_px=64, shard_px=256)


def label_volume(plan: Plan, sample: Sample) -> NDArray[Any]:
    """The labels `(z, y, x)`, in voxels of `outputs.label_pixels` pixels.

    Voxel `n // 2` of each axis lies in the middle of the specimen. 0 is ice; particles
    count from 1 in the order of the truth file, then beads, then the density.
    """
    voxel_nm = plan.outputs.label_pixels * plan.pixel_nm
    sides_nm = (
        plan.ice.thickness_nm,
        plan.camera.height_px * plan.pixel_nm,
        plan.camera.width_px * plan.pixel_nm,
    )
    shape = [max(1, round(side / voxel_nm)) for side in sides_nm]
    most = len(sample.particles) + 1
    found = np.zeros(shape, np.uint16 if most < 2**16 else np.uint32)
    ordered = sorted(
        sample.particles, key=lambda each: sample.maps[each.template].name == FIDUCIAL
    )
    bodies = [_body(each, voxel_nm) for each in sample.maps]
    for label, each in enumerate(ordered, 1):
        body, step = bodies[each.template], sample.maps[each.template].voxel_nm
        back = np.ascontiguousarray(each.rotation.T)
        _fill(found, body, back, np.array(each.position_nm), (voxel_nm, step), label)
    if sample.density is not None:
        body, step = _body(sample.density, voxel_nm), sample.density.voxel_nm
        _fill(found, body, np.eye(3), np.zeros(3), (voxel_nm, step), most)
    return found


def _body(kept: DensityMap, voxel_nm: float) -> NDArray[np.bool_]:
    """Where the particle is, in voxels of its map: without gaps between its atoms."""
    sigma = max(voxel_nm / 4, _LEAST_BLUR_NM) / kept.voxel_nm
    smooth = gaussian_filter(np.asarray(kept.potential_v, np.float32), sigma)
    return np.asarray(smooth > _BODY * smooth.max(initial=0))


def write_labels(folder: Path, plan: Plan, sample: Sample, *, name: str) -> None:
    """Write the labels as an OME-Zarr with a pyramid, in the axes of the truth file."""
    voxels = label_volume(plan, sample)
    voxel_nm = plan.outputs.label_pixels * plan.pixel_nm
    info = VolumeInfo(
        uri=f"the labels of {name}",
        format="labels",
        shape=_three(voxels.shape),
        dtype=voxels.dtype.name,
        voxel_size_nm=(voxel_nm,) * 3,
        origin_nm=_three([-(side // 2) * voxel_nm for side in voxels.shape]),
    )
    write_volume(
        str(folder / LABELS),
        _InMemory(info=info, voxels=voxels),
        settings=_OUTPUT,
        name=name,
        product=Product(kind="labels", of=name),
        fingerprint="",
        pooling="mode",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _InMemory:
    """A volume for the writer, whose voxels are there already."""

    info: VolumeInfo
    voxels: NDArray[Any]

    def read(self, region: tuple[slice, slice, slice]) -> NDArray[Any]:
        return self.voxels[region]


def _three(values: Any) -> tuple[Any, Any, Any]:
    z, y, x = values
    return z, y, x


@_jit
def _fill(voxels, body, back, position, scales, label):  # type: ignore[no-untyped-def]
    voxel, step = scales
    depth, rows, columns = body.shape
    # Half of the map's diagonal, whichever way it is turned.
    reach = step * np.sqrt(float(depth**2 + rows**2 + columns**2)) / 2
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for axis in range(3):
        middle = voxels.shape[axis] // 2
        place = position[2 - axis]
        low[axis] = max(0, int(np.floor((place - reach) / voxel)) + middle)
        top = int(np.ceil((place + reach) / voxel)) + middle + 1
        high[axis] = min(voxels.shape[axis], top)
    for k in range(low[0], high[0]):
        z = (k - voxels.shape[0] // 2) * voxel - position[2]
        for j in range(low[1], high[1]):
            y = (j - voxels.shape[1] // 2) * voxel - position[1]
            for i in range(low[2], high[2]):
                x = (i - voxels.shape[2] // 2) * voxel - position[0]
                u = back[0, 0] * x + back[0, 1] * y + back[0, 2] * z
                v = back[1, 0] * x + back[1, 1] * y + back[1, 2] * z
                w = back[2, 0] * x + back[2, 1] * y + back[2, 2] * z
                a = int(np.rint(w / step)) + depth // 2
                b = int(np.rint(v / step)) + rows // 2
                c = int(np.rint(u / step)) + columns // 2
                inside = 0 <= a < depth and 0 <= b < rows and 0 <= c < columns
                if inside and body[a, b, c]:
                    voxels[k, j, i] = label
