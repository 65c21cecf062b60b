"""A sample as one file, so that an assembler (and Chimera) works once for a stack."""

import io
import json
import zipfile
import zlib
from typing import Any

import numpy as np

from em_platform.errors import FormatError
from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap, Sample
from em_platform.simulation.tilt_series.image import Particle

_DENSITY = "density"
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def encode_sample(sample: Sample) -> bytes:
    """The content of its file: numpy's `.npz`, which needs no pickle."""
    maps = [*sample.maps, *([sample.density] if sample.density is not None else [])]
    words = {
        "names": [each.name for each in maps],
        "voxels_nm": [each.voxel_nm for each in maps],
        "facts": sample.facts,
        _DENSITY: sample.density is not None,
    }
    arrays: dict[str, Any] = {
        "templates": np.array([p.template for p in sample.particles], np.int64),
        "positions_nm": np.array(
            [p.position_nm for p in sample.particles], np.float64
        ).reshape(-1, 3),
        "rotations": np.array(
            [p.rotation for p in sample.particles], np.float64
        ).reshape(-1, 3, 3),
        **{f"map_{number}": each.potential_v for number, each in enumerate(maps)},
    }
    content = io.BytesIO()
    # Most of a map is ice: zeros.
    np.savez_compressed(content, words=json.dumps(words), **arrays)
    return content.getvalue()


def decode_sample(content: bytes, *, source: str) -> Sample:
    """The sample that `encode_sample` wrote; `source` is named where it is damaged.

    Raises
    ------
    FormatError
        It is no such file.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return _sample(archive)
    except _DAMAGED as error:
        raise FormatError(
            f"simulation: {source} cannot be read as a sample ({error}); materialize "
            "sim_sample again"
        ) from error


def _sample(archive: Any) -> Sample:
    words = json.loads(str(archive["words"]))
    maps = tuple(
        DensityMap(name=name, potential_v=archive[f"map_{number}"], voxel_nm=voxel_nm)
        for number, (name, voxel_nm) in enumerate(
            zip(words["names"], words["voxels_nm"], strict=True)
        )
    )
    particles = tuple(
        Particle(template=int(template), position_nm=(x, y, z), rotation=rotation)
        for template, (x, y, z), rotation in zip(
            archive["templates"],
            archive["positions_nm"].tolist(),
            archive["rotations"],
            strict=True,
        )
    )
    last = maps[-1] if words[_DENSITY] else None
    return Sample(
        maps=maps[:-1] if words[_DENSITY] else maps,
        particles=particles,
        facts=words["facts"],
        density=last,
    )
