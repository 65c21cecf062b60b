"""The sample of each tilt series: particles by an assembler, then gold beads."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from em_platform.errors import ConfigError
from em_platform.simulation.tilt_series.assemblers import assembler_of
from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap, Sample
from em_platform.simulation.tilt_series.assemblers.place import scattered
from em_platform.simulation.tilt_series.image import Particle
from em_platform.simulation.tilt_series.particles import ICE_V, library_potential
from em_platform.simulation.tilt_series.plan import FIDUCIAL, Plan, generator

_GOLD_V = 29.9
"""Of isolated atoms (Peng et al. 1996), 59.0 of them in a nm^3; measured: 21 to 30."""

_LEAST_PIXELS = 2.0
"""Of a particle's diameter: a smaller one is a wrong unit and not a particle."""

SampleOf = Callable[[int], Sample]
"""The sample of a stack, by the stack's number."""


def particle_maps(plan: Plan, *, library: Path) -> tuple[DensityMap, ...]:
    """The maps of the plan's files, in their order, kept in `library`.

    Raises
    ------
    ConfigError
        A file is missing, or a particle does not fit into the ice or the image, or is
        smaller than two pixels.
    FormatError
        A file cannot be read.
    """
    maps = []
    for kind in plan.sources:
        volume, voxel_nm = library_potential(
            kind, pixel_nm=plan.pixel_nm, folder=library
        )
        found = DensityMap(name=kind.name, potential_v=volume, voxel_nm=voxel_nm)
        _check_size(plan, found)
        maps.append(found)
    return tuple(maps)


@contextmanager
def assembling(plan: Plan, *, library: Path) -> Iterator[SampleOf]:
    """Make the samples of stacks; what the assembler started is ended with the block.

    Raises
    ------
    ConfigError
        There is no such assembler, its options are wrong, or as `particle_maps`.
    """
    maps = particle_maps(plan, library=library)
    kind = assembler_of(plan.assembly.kind)
    with tempfile.TemporaryDirectory(prefix="em-platform-sample-") as folder:
        particles = maps[: len(plan.particles)]
        assembler = kind(plan, particles, Path(folder))
        bead = maps[-1] if plan.beads.file else _bead(plan)

        def sample_of(stack: int) -> Sample:
            made = assembler.set_up_tiltseries(stack)
            assembler.reset_temp_dir()
            return _with_beads(plan, stack, made, bead=bead)

        try:
            yield sample_of
        finally:
            assembler.close()


def _check_size(plan: Plan, found: DensityMap) -> None:
    diameter_nm = 2 * found.radius_nm
    camera = plan.camera
    field_nm = min(camera.height_px, camera.width_px) * plan.pixel_nm
    for what, room_nm in (
        ("the ice is", plan.ice.thickness_nm),
        ("the image is", field_nm),
    ):
        if diameter_nm > room_nm:
            raise ConfigError(
                f"particle {found.name}: it is {diameter_nm:.1f} nm wide and {what} "
                f"{room_nm:.1f} nm, a smaller particle was expected; correct voxel_nm "
                f"({found.voxel_nm:g} nm), or the ice or the image"
            )
    if diameter_nm < _LEAST_PIXELS * plan.pixel_nm:
        raise ConfigError(
            f"particle {found.name}: it is {diameter_nm:.2g} nm wide, less than "
            f"{_LEAST_PIXELS:g} pixels of {plan.pixel_nm:g} nm; both are in nm (1 nm "
            "is 10 Å), correct voxel_nm or pixel_nm"
        )


def _with_beads(plan: Plan, stack: int, sample: Sample, *, bead: DensityMap) -> Sample:
    if not plan.beads.count:
        return sample
    camera = plan.camera
    box = (
        camera.width_px * plan.pixel_nm,
        camera.height_px * plan.pixel_nm,
        max(plan.ice.thickness_nm - plan.beads.diameter_nm, 1e-3),
    )
    taken = [
        (np.asarray(each.position_nm), sample.maps[each.template].radius_nm)
        for each in sample.particles
    ]
    places = scattered(
        [plan.beads.diameter_nm / 2] * plan.beads.count,
        box_nm=box,
        rng=generator(plan, "beads", stack),
        taken=taken,
    )
    beads = tuple(
        Particle(template=len(sample.maps), position_nm=(x, y, z), rotation=np.eye(3))
        for x, y, z in places.tolist()
    )
    return replace(
        sample, maps=(*sample.maps, bead), particles=(*sample.particles, *beads)
    )


def _bead(plan: Plan) -> DensityMap:
    """A ball of gold, its voxels at the border filled in part."""
    voxel_nm = plan.pixel_nm / 2
    radius = plan.beads.diameter_nm / 2 / voxel_nm
    half = int(np.ceil(radius)) + 2
    z, y, x = np.ogrid[-half:half, -half:half, -half:half]
    away = np.sqrt(z**2 + y**2 + x**2)
    share = np.clip(radius - away + 0.5, 0, 1)
    return DensityMap(
        name=FIDUCIAL,
        potential_v=((_GOLD_V - ICE_V) * share).astype(np.float32),
        voxel_nm=voxel_nm,
    )
