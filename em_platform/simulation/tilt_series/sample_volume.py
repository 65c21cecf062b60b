"""The sample of a tilt series as a volume: what a perfect tomogram would show."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter

from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap, Sample

_BLUR = 0.5  # of a voxel, sigma: finer detail would come back as coarse


def sample_volume(
    sample: Sample, *, shape: tuple[int, int, int], voxel_nm: float
) -> NDArray[np.float32]:
    """The potential `(z, y, x)` above that of ice, V.

    Voxel `n // 2` of each axis lies in the middle of the specimen; z is along the
    untilted beam.
    """
    found = np.zeros(shape, np.float32)
    maps = [_smooth(each, voxel_nm) for each in sample.maps]
    for each in sample.particles:
        kept = maps[each.template]
        _add(found, kept, each.rotation, each.position_nm, voxel_nm)
    if sample.density is not None:
        _add(found, _smooth(sample.density, voxel_nm), np.eye(3), (0, 0, 0), voxel_nm)
    return found


def _smooth(kept: DensityMap, voxel_nm: float) -> DensityMap:
    sigma = _BLUR * voxel_nm / kept.voxel_nm
    return DensityMap(
        name=kept.name,
        potential_v=gaussian_filter(np.asarray(kept.potential_v, np.float32), sigma),
        voxel_nm=kept.voxel_nm,
    )


def _add(
    volume: NDArray[np.float32],
    kept: DensityMap,
    rotation: NDArray[np.float64],
    position_nm: tuple[float, float, float],
    voxel_nm: float,
) -> None:
    sides = np.asarray(kept.potential_v.shape)
    # Half of the map's diagonal, whichever way it is turned.
    reach = kept.voxel_nm * float(np.linalg.norm(sides)) / 2
    place = np.asarray(position_nm[::-1], float) / voxel_nm
    middle = np.asarray(volume.shape) // 2
    low = np.floor(place - reach / voxel_nm).astype(int) + middle
    high = np.ceil(place + reach / voxel_nm).astype(int) + middle + 1
    low, high = np.maximum(low, 0), np.minimum(high, volume.shape)
    if (high <= low).any():
        return
    # From the sample's axes to the map's, both as (z, y, x).
    back = rotation.T[::-1, ::-1] * (voxel_nm / kept.voxel_nm)
    part = affine_transform(
        kept.potential_v,
        back,
        sides // 2 + back @ (low - middle - place),
        output_shape=tuple((high - low).tolist()),
        order=1,
    )
    volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] += part
