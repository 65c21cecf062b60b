"""Micrographs of single particles that lie in a few known views, with the truth.

A made-up particle of Gaussian blobs, projected, imaged with contrast transfer and
covered with noise: enough to judge picking, extraction and 2-D classes by.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from em_platform.simulation.tilt_series.assemblers.place import scattered
from em_platform.simulation.tilt_series.optics import (
    Defocus,
    Lens,
    contrast_transfer,
    frequencies,
)
from em_platform.simulation.tilt_series.project import (
    Template,
    add_stamp,
    projection,
    template,
)

Float = NDArray[np.float32]

_BLOBS = 25
_VOXELS = 48
_FILLED = 0.8
"""Of the diameter: blobs' middles lie within, so that all of them fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticlePlan:
    """What is on each micrograph."""

    views: int = 6
    particles: int = 40
    side_px: int = 768
    pixel_a: float = 4.0
    diameter_a: float = 150.0
    signal_to_noise: float = 0.1
    """Variance of the particles over that of the noise, inside of the particles."""
    ice: float = 0.02
    """Roughness of the ice, as a share of the strongest projection."""
    defocus_a: tuple[float, float] = (12_000.0, 25_000.0)
    voltage_kv: float = 300.0
    spherical_mm: float = 2.7
    amplitude_contrast: float = 0.1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Micrograph:
    """An image `(h, w)` with dark particles, and where and how each lies.

    Attributes
    ----------
    clean, noise
        The image without the camera's noise, and the deviation of that.
    points
        `(n, 2)`, middles `(x, y)`, px.
    views, angles_deg
        `(n,)`: the view, and its turn in the plane.
    """

    image: Float
    clean: Float
    noise: float
    points: NDArray[np.float64]
    views: NDArray[np.int64]
    angles_deg: NDArray[np.float64]
    defocus_a: float


def micrograph(plan: ParticlePlan, number: int) -> Micrograph:
    """Micrograph `number` of a plan; the same for the same plan and number."""
    rng = np.random.default_rng((plan.seed, 1, number))
    low, high = plan.defocus_a
    defocus_a = float(rng.uniform(low, high))
    views = rng.integers(0, plan.views, plan.particles)
    angles = rng.uniform(0, 360, plan.particles)
    # Whole particles only: none is cut by the edge.
    inside = plan.side_px - 1.2 * plan.diameter_a / plan.pixel_a
    radius = 0.55 * plan.diameter_a / plan.pixel_a
    places = scattered(
        [radius] * plan.particles, box_nm=(inside, inside, 1e-3), rng=rng
    )
    points = places[:, :2] + plan.side_px // 2
    field = np.zeros((plan.side_px, plan.side_px), np.float32)
    for view, angle, point in zip(views, angles, points, strict=True):
        column, row = (round(value) for value in point.tolist())
        shift = float(point[1] - row), float(point[0] - column)
        add_stamp(
            field, view_of(plan, int(view), angle_deg=angle, shift=shift), row, column
        )
    noise = float(np.sqrt(_power(plan, defocus_a) / plan.signal_to_noise))
    # Ice scatters too, and shows the rings of the contrast transfer best.
    ice = rng.standard_normal(field.shape, np.float32) * np.float32(field.max())
    clean = _imaged(field + np.float32(plan.ice) * ice, plan, defocus_a)
    return Micrograph(
        image=clean + noise * rng.standard_normal(clean.shape, np.float32),
        clean=clean,
        noise=noise,
        points=points,
        views=views,
        angles_deg=angles,
        defocus_a=defocus_a,
    )


def view_of(
    plan: ParticlePlan,
    view: int,
    *,
    angle_deg: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Float:
    """The particle from one side, turned in the plane; without lens and noise."""
    particle, sides = _particle(plan)
    turn = Rotation.from_euler("z", angle_deg, degrees=True).as_matrix()
    side = 2 * round(0.75 * plan.diameter_a / plan.pixel_a)
    return projection(
        particle,
        turn @ sides[view],
        shift_px=shift,
        size=side,
        pixel_nm=plan.pixel_a / 10,
    )


@lru_cache(maxsize=4)
def _particle(plan: ParticlePlan) -> tuple[Template, NDArray[np.float64]]:
    rng = np.random.default_rng((plan.seed, 0))
    axis = np.arange(_VOXELS) - _VOXELS // 2
    radius = _VOXELS / 2
    volume = np.zeros((_VOXELS,) * 3)
    for _ in range(_BLOBS):
        middle = rng.standard_normal(3)
        width = rng.uniform(0.06, 0.14) * radius
        reach = _FILLED * radius - 2 * width
        middle *= reach * rng.uniform(0, 1) ** (1 / 3) / np.linalg.norm(middle)
        z, y, x = (np.exp(-((axis - at) ** 2) / (2 * width**2)) for at in middle)
        volume += rng.uniform(0.5, 1.5) * np.einsum("i,j,k", z, y, x)
    voxel_nm = plan.diameter_a / 10 / _VOXELS
    particle = template(volume.astype(np.float32), voxel_nm=voxel_nm)
    sides = Rotation.random(plan.views, rng=np.random.default_rng((plan.seed, 2)))
    return particle, sides.as_matrix()


def _imaged(field: Float, plan: ParticlePlan, defocus_a: float) -> Float:
    lens = Lens(
        voltage_v=1000 * plan.voltage_kv,
        spherical_nm=1e6 * plan.spherical_mm,
        amplitude_contrast=plan.amplitude_contrast,
    )
    qy, qx = frequencies(field.shape, plan.pixel_a / 10)
    one = Defocus(u_nm=defocus_a / 10, v_nm=defocus_a / 10, azimuth_rad=0.0)
    gain = contrast_transfer(qy, qx, lens=lens, defocus=one)
    wave = scipy.fft.rfft2(field) * gain
    return np.asarray(scipy.fft.irfft2(wave, field.shape), np.float32)


@lru_cache(maxsize=64)
def _power(plan: ParticlePlan, defocus_a: float) -> float:
    """Variance of the image of a particle inside of its circle."""
    view = view_of(plan, 0)
    seen = _imaged(view, plan, defocus_a)
    axis = np.arange(len(seen)) - len(seen) // 2
    inside = np.hypot(axis[:, None], axis) < plan.diameter_a / plan.pixel_a / 2
    return float(seen[inside].var())


def movie(
    plan: ParticlePlan, number: int, *, frames: int, drift_px: float
) -> tuple[Float, Micrograph, NDArray[np.float64]]:
    """Frames `(n, h, w)` that add up to micrograph `number`, and how they drift.

    The specimen moves evenly by `drift_px` in all in a direction of its own; the third
    value is where it is in each frame, `(n, 2)` as `(x, y)`, 0 in the first one.
    """
    still = micrograph(plan, number)
    rng = np.random.default_rng((plan.seed, 3, number))
    angle = rng.uniform(0, 2 * np.pi)
    reach = drift_px * np.linspace(0, 1, frames)
    path = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1)
    clean = still.clean / frames
    wave = scipy.fft.rfft2(clean)
    fy = scipy.fft.fftfreq(clean.shape[0])[:, None]
    fx = scipy.fft.rfftfreq(clean.shape[1])[None, :]
    noise = still.noise / np.sqrt(frames)
    found = np.empty((frames, *clean.shape), np.float32)
    for i, (dx, dy) in enumerate(path.tolist()):
        moved = wave * np.exp(-2j * np.pi * (fy * dy + fx * dx))
        found[i] = scipy.fft.irfft2(moved, clean.shape)
        found[i] += noise * rng.standard_normal(clean.shape, np.float32)
    # Counts of a camera are positive.
    return found + np.float32(10 * noise), still, path
