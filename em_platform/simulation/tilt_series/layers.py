"""A sample made ready for imaging, and cut into layers across the beam."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.assemblers.assembler import Map, Sample
from em_platform.simulation.tilt_series.geometry import Tilt, rotation
from em_platform.simulation.tilt_series.image import Particle, Slice
from em_platform.simulation.tilt_series.optics import wavelength_nm
from em_platform.simulation.tilt_series.project import (
    Template,
    add_stamp,
    projection,
    stamp_size,
    template,
)
from em_platform.simulation.tilt_series.volume import density_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is imaged: particles by their templates, and a density that is none."""

    particles: tuple[Particle, ...]
    templates: tuple[Template, ...]
    density: Map | None = None


def scene_of(sample: Sample, *, pixel_nm: float) -> Scene:
    """The sample with its maps transformed, which takes as long as an image."""
    templates = [
        template(each.potential_v, voxel_nm=each.voxel_nm, pixel_nm=pixel_nm)
        for each in sample.maps
    ]
    return Scene(
        particles=sample.particles, templates=tuple(templates), density=sample.density
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A particle in the image: its layer, its place there, how it is turned."""

    layer: int
    row: float
    column: float
    template: Template
    turn: NDArray[np.float64]


def slices(
    scene: Scene,
    tilt: Tilt,
    *,
    shape: tuple[int, int],
    pixel_nm: float,
    voltage_v: float,
) -> Iterator[Slice]:
    """The scene projected into layers, in the order of the beam; one is in memory.

    A layer is pixel^2 / (2 lambda) thick: within it the phase of the finest frequency
    turns by an eighth of a circle at most (Rullgård et al. 2011, section 3.3).
    """
    thick = pixel_nm**2 / (2 * wavelength_nm(voltage_v))
    to_detector = rotation(tilt).T
    seen: dict[int, list[_Seen]] = {}
    for each in _in_the_image(
        scene, tilt, to_detector, shape=shape, pixel_nm=pixel_nm, thick_nm=thick
    ):
        seen.setdefault(each.layer, []).append(each)
    dense = _dense(
        scene, tilt, to_detector, shape=shape, pixel_nm=pixel_nm, thick_nm=thick
    )
    for number, field in dense:
        for layer in sorted(each for each in seen if each < number):
            drawn = np.zeros(shape, np.float32)
            yield _drawn(layer, thick, drawn, seen.pop(layer), pixel_nm=pixel_nm)
        yield _drawn(number, thick, field, seen.pop(number, []), pixel_nm=pixel_nm)
    for layer in sorted(seen):
        drawn = np.zeros(shape, np.float32)
        yield _drawn(layer, thick, drawn, seen[layer], pixel_nm=pixel_nm)


def _dense(
    scene: Scene,
    tilt: Tilt,
    to_detector: NDArray[np.float64],
    *,
    shape: tuple[int, int],
    pixel_nm: float,
    thick_nm: float,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    if scene.density is not None:
        yield from density_layers(
            scene.density,
            to_detector,
            shift_nm=tilt.shift_nm,
            shape=shape,
            pixel_nm=pixel_nm,
            thick_nm=thick_nm,
        )


def _in_the_image(
    scene: Scene,
    tilt: Tilt,
    to_detector: NDArray[np.float64],
    *,
    shape: tuple[int, int],
    pixel_nm: float,
    thick_nm: float,
) -> Iterator[_Seen]:
    height, width = shape
    for particle in scene.particles:
        kind = scene.templates[particle.template]
        x, y, z = to_detector @ np.asarray(particle.position_nm)
        row = (y + tilt.shift_nm[0]) / pixel_nm + height // 2
        column = (x + tilt.shift_nm[1]) / pixel_nm + width // 2
        half = stamp_size(kind.radius_nm, pixel_nm) / 2
        if -half < row < height + half and -half < column < width + half:
            yield _Seen(
                layer=round(z / thick_nm),
                row=row,
                column=column,
                template=kind,
                turn=to_detector @ particle.rotation,
            )


def _drawn(
    layer: int,
    thick_nm: float,
    field: NDArray[np.float32],
    seen: list[_Seen],
    *,
    pixel_nm: float,
) -> Slice:
    for each in seen:
        near = round(each.row), round(each.column)
        stamp = projection(
            each.template,
            each.turn,
            shift_px=(each.row - near[0], each.column - near[1]),
            size=stamp_size(each.template.radius_nm, pixel_nm),
            pixel_nm=pixel_nm,
        )
        add_stamp(field, stamp, *near)
    return Slice(depth_nm=layer * thick_nm, potential_v_nm=field)
