"""A sample made ready for imaging, and cut into layers across the beam.

A particle's stamp is first moved along the beam to the middle of its layer, frequency
by frequency, so its own defocus is exact however thick the layers are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap, Sample
from em_platform.simulation.tilt_series.geometry import Tilt, rotation
from em_platform.simulation.tilt_series.image import Particle, StrongLayer, WeakLayer
from em_platform.simulation.tilt_series.optics import (
    interaction_rad_per_v_nm,
    wavelength_nm,
)
from em_platform.simulation.tilt_series.project import (
    Template,
    add_stamp,
    multiply_stamp,
    stamp_size,
    strong_stamps,
    template,
    weak_stamps,
)
from em_platform.simulation.tilt_series.volume import density_layers, with_fine_voxels


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is imaged: particles by their templates, and a density that is none."""

    particles: tuple[Particle, ...]
    templates: tuple[Template, ...]
    density: DensityMap | None = None


def scene_of(sample: Sample, *, pixel_nm: float) -> Scene:
    """The sample with its maps transformed, which takes as long as an image."""
    templates = [
        template(each.potential_v, voxel_nm=each.voxel_nm, pixel_nm=pixel_nm)
        for each in sample.maps
    ]
    dense = sample.density
    return Scene(
        particles=sample.particles,
        templates=tuple(templates),
        density=None if dense is None else with_fine_voxels(dense, pixel_nm=pixel_nm),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """From where a scene is looked at, and on which pixels."""

    tilt: Tilt
    shape: tuple[int, int]
    pixel_nm: float
    voltage_v: float

    @property
    def to_detector(self) -> NDArray[np.float64]:
        """`(3, 3)` from the specimen's axes to those of the detector."""
        return rotation(self.tilt).T

    @property
    def thin_nm(self) -> float:
        """Of a layer within which the phase of the finest frequency stays the same.

        It turns by an eighth of a circle at most (Rullgård et al. 2011, section 3.3).
        """
        return self.pixel_nm**2 / (2 * wavelength_nm(self.voltage_v))


_AT_A_TIME = 16  # stamps: so many stay in a core's cache, and one call makes them


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A few particles of one kind in one layer of the image."""

    template: Template
    turns: NDArray[np.float64]
    """`(n, 3, 3)` from the particles' axes to those of the detector."""
    pixels: NDArray[np.int64]
    """`(n, 2)`: the pixel (y, x) next to the middle of each."""
    aside_px: NDArray[np.float64]
    """`(n, 2)` from that pixel."""
    beyond_nm: NDArray[np.float64]
    """`(n,)` from the middle of their layer, along the beam."""


def weak_layers(scene: Scene, view: View) -> Iterator[WeakLayer]:
    """The scene as a weak phase object, layer by layer; one is in memory."""
    if scene.density is not None:
        for number, field in _dense(scene.density, view):
            yield WeakLayer(depth_nm=number * view.thin_nm, even_v_nm=field)
    thick = _reach_nm(scene, view)
    for number, seen in _by_layer(scene, view, thick_nm=thick).items():
        even, odd = np.zeros((2, *view.shape), np.float32)
        for each in seen:
            stamps = weak_stamps(each.template, each.turns, **_seen_by(view, each))
            for stamp, (y, x) in zip(stamps, each.pixels.tolist(), strict=True):
                add_stamp(even, stamp[0], y, x)
                add_stamp(odd, stamp[1], y, x)
        yield WeakLayer(depth_nm=number * thick, even_v_nm=even, odd_v_nm=odd)


def strong_layers(scene: Scene, view: View) -> Iterator[StrongLayer]:
    """The scene as a strong phase object, in the order of the beam.

    Layers are so thick that what is scattered twice, in two of them, has its phase to a
    quarter of pi up to half of Nyquist.
    """
    sigma = interaction_rad_per_v_nm(view.voltage_v)
    dense = scene.density
    thick = view.thin_nm if dense is not None else 8 * view.thin_nm
    thick = min(thick, _reach_nm(scene, view))
    fields = iter(()) if dense is None else _dense(dense, view)
    waiting = _by_layer(scene, view, thick_nm=thick)
    for number, field in fields:
        for earlier in [each for each in waiting if each < number]:
            yield _strong(earlier, thick, waiting.pop(earlier), view)
        wave = np.exp(1j * np.float32(sigma) * field)
        yield _strong(number, thick, waiting.pop(number, []), view, wave=wave)
    for number, seen in waiting.items():
        yield _strong(number, thick, seen, view)


def _strong(
    number: int,
    thick_nm: float,
    seen: list[_Seen],
    view: View,
    *,
    wave: NDArray[np.complex64] | None = None,
) -> StrongLayer:
    through = np.ones(view.shape, np.complex64) if wave is None else wave
    for each in seen:
        stamps = strong_stamps(each.template, each.turns, **_seen_by(view, each))
        for stamp, (y, x) in zip(stamps, each.pixels.tolist(), strict=True):
            multiply_stamp(through, stamp, y, x)
    return StrongLayer(depth_nm=number * thick_nm, wave=through)


def _seen_by(view: View, seen: _Seen) -> dict[str, Any]:
    """What both kinds of stamps are made by."""
    return {
        "shifts_px": seen.aside_px,
        "beyond_nm": seen.beyond_nm,
        "size": stamp_size(seen.template.radius_nm, view.pixel_nm),
        "pixel_nm": view.pixel_nm,
        "voltage_v": view.voltage_v,
    }


def _dense(
    density: DensityMap, view: View
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    return density_layers(
        density,
        view.to_detector,
        shift_nm=view.tilt.shift_nm,
        shape=view.shape,
        pixel_nm=view.pixel_nm,
        thick_nm=view.thin_nm,
    )


def _reach_nm(scene: Scene, view: View) -> float:
    """How thick a layer may be, so that stamps that are moved in it stay in their box.

    The finest frequency goes aside by wavelength / (2 pixel) of its way; half of the
    box's margin, a quarter of a particle's radius, is left to it.
    """
    smallest = min((each.radius_nm for each in scene.templates), default=1.0)
    slope = wavelength_nm(view.voltage_v) / (2 * view.pixel_nm)
    return max(smallest / 2 / slope, view.thin_nm)


def _by_layer(scene: Scene, view: View, *, thick_nm: float) -> dict[int, list[_Seen]]:
    """The particles that the image shows, by their layers along the beam."""
    if not scene.particles:
        return {}
    kinds = np.array([each.template for each in scene.particles])
    places = np.array([each.position_nm for each in scene.particles])
    turns = np.array([each.rotation for each in scene.particles])
    turned = places @ view.to_detector.T
    middle = np.array(view.shape) // 2
    pixels = (turned[:, 1::-1] + view.tilt.shift_nm) / view.pixel_nm + middle
    sizes = [stamp_size(each.radius_nm, view.pixel_nm) for each in scene.templates]
    half = np.array(sizes)[kinds, None] / 2
    inside = ((-half < pixels) & (pixels < np.array(view.shape) + half)).all(axis=1)
    layers = np.rint(turned[:, 2] / thick_nm).astype(np.int64)
    found: dict[int, list[_Seen]] = {}
    for layer, kind in sorted(set(zip(layers[inside], kinds[inside], strict=True))):
        (same,) = np.nonzero(inside & (layers == layer) & (kinds == kind))
        for few in np.split(same, range(_AT_A_TIME, len(same), _AT_A_TIME)):
            near = np.rint(pixels[few]).astype(np.int64)
            found.setdefault(int(layer), []).append(
                _Seen(
                    template=scene.templates[kind],
                    turns=view.to_detector @ turns[few],
                    pixels=near,
                    aside_px=pixels[few] - near,
                    beyond_nm=turned[few, 2] - layer * thick_nm,
                )
            )
    return found
