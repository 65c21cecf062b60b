"""Pictures of what the stages make, by the names of the plugins of cryoem-services.

One function a picture: parameters and a folder in, names of the written files out.
"""

from collections.abc import Callable
from pathlib import Path

from em_platform.cryoem.images import alignment, micrographs, particles_3d, volumes
from em_platform.cryoem.images.parameters import ImageParameters
from em_platform.cryoem.images.tiffs import tiff_to_apng

Names = tuple[str, ...]

COMMANDS: dict[str, Callable[[ImageParameters, Path], Names]] = {
    "mrc_to_jpeg": micrographs.mrc_to_jpeg,
    "picked_particles": micrographs.picked_particles,
    "mrc_central_slice": volumes.mrc_central_slice,
    "mrc_projection": volumes.mrc_projection,
    "mrc_to_apng": volumes.mrc_to_apng,
    "mrc_to_apng_colour": volumes.mrc_to_apng_colour,
    "picked_particles_3d_central_slice": particles_3d.central_slice,
    "picked_particles_3d_apng": particles_3d.apng,
    "tiff_to_apng": tiff_to_apng,
    "tilt_series_alignment": alignment.tilt_series_alignment,
}
"""Command of the images service -> what makes its picture."""

__all__ = ["COMMANDS", "ImageParameters", "Names"]
