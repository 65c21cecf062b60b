"""The images of one tilt series: each tilt alone, from the plan and the sample."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import fourier_shift

from em_platform.simulation.tilt_series.detector import (
    Detector,
    counted,
    recorded,
    transfer,
)
from em_platform.simulation.tilt_series.geometry import Film, Tilt
from em_platform.simulation.tilt_series.ice import fading, grain
from em_platform.simulation.tilt_series.image import (
    linear_contrast,
    multislice_contrast,
)
from em_platform.simulation.tilt_series.layers import (
    Scene,
    View,
    strong_layers,
    weak_layers,
)
from em_platform.simulation.tilt_series.optics import Defocus, Lens
from em_platform.simulation.tilt_series.passing import (
    electrons,
    mean_path_nm,
)
from em_platform.simulation.tilt_series.plan import Plan, angles, generator
from em_platform.simulation.tilt_series.radial import multiply, radial_frequencies
from em_platform.simulation.tilt_series.scattering import (
    Loss,
    ice_of,
    loss,
    water_per_nm3,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltImage:
    """One section of a stack, as the camera gives it, `(h, w)` float32."""

    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]
    """The expected counts: without noise."""
    frames: NDArray[np.float32] | None = None
    """`(frames, h, w)` of its movie, noisy; `noisy` is their sum. None: no movie."""


def tilts_of(plan: Plan, stack: int) -> list[Tilt]:
    """The tilts of a stack by rising angle, as the stage and the beam really were."""
    geometry = generator(plan, "geometry", stack)
    dose_rng = generator(plan, "dose", stack)
    defocus_rng = generator(plan, "defocus", stack)
    scheme, errors, beam = plan.tilts, plan.errors, plan.beam
    lens = plan.objective
    nominal = angles(scheme)
    count = len(nominal)
    wrong = geometry.standard_normal((count, 4))
    dose = beam.dose_per_tilt_e_per_nm2 * np.clip(
        1 + beam.dose_spread * dose_rng.standard_normal(count), 0.05, None
    )
    mean_nm = 1000 * lens.defocus_um[stack % len(lens.defocus_um)]
    spread_nm = 1000 * lens.defocus_spread_um * defocus_rng.standard_normal(count)
    by_time = np.empty(count)
    for index, (_, order) in enumerate(nominal):
        by_time[order] = dose[index]
    before = np.concatenate([[0.0], np.cumsum(by_time)])
    return [
        Tilt(
            index=index,
            order=order,
            nominal_deg=angle,
            tilt_deg=angle + errors.tilt_deg * float(wrong[index, 0]),
            axis_deg=scheme.axis_deg + errors.rotation_deg * float(wrong[index, 1]),
            shift_nm=(
                errors.shift_nm * float(wrong[index, 2]),
                errors.shift_nm * float(wrong[index, 3]),
            ),
            dose_per_nm2=float(dose[index]),
            prior_dose_per_nm2=float(before[order]),
            defocus=Defocus(
                u_nm=mean_nm + float(spread_nm[index]) + lens.astigmatism_nm,
                v_nm=mean_nm + float(spread_nm[index]) - lens.astigmatism_nm,
                azimuth_rad=float(np.deg2rad(lens.astigmatism_azimuth_deg)),
            ),
        )
        for index, (angle, order) in enumerate(nominal)
    ]


def drift_nm(plan: Plan, stack: int, tilt: Tilt) -> NDArray[np.float64]:
    """Where the sample is in each frame of a movie, `(frames, 2)` as y, x from the 1st.

    A random walk: drift is fastest when the beam comes on, and never returns.
    """
    frames = plan.camera.frames
    rng = generator(plan, "drift", stack, tilt.index)
    steps = plan.errors.drift_nm_per_frame * rng.standard_normal((frames, 2))
    steps[0] = 0
    return np.cumsum(steps, axis=0)


def expected_electrons(
    plan: Plan, stack: int, tilt: Tilt, *, scene: Scene
) -> NDArray[np.float32]:
    """Electrons that are expected in each pixel of an image, `(h, w)`, before drift."""
    shape = plan.camera.height_px, plan.camera.width_px
    lens, pixel_nm = lens_of(plan), plan.pixel_nm
    view = View(tilt=tilt, shape=shape, pixel_nm=pixel_nm, voltage_v=lens.voltage_v)
    seen_by: dict[str, Any] = {
        "lens": lens, "tilt": tilt, "pixel_nm": pixel_nm, "shape": shape
    }  # fmt: skip
    if plan.mode == "linear":
        contrast = linear_contrast(weak_layers(scene, view), **seen_by)
    else:
        contrast = multislice_contrast(strong_layers(scene, view), **seen_by)
    if plan.errors.radiation_damage:
        q = radial_frequencies(pixel_nm)
        left = fading(q, voltage_v=lens.voltage_v, tilt=tilt)
        multiply(contrast, left, shape=shape, pixel_nm=pixel_nm)
    path_nm = path_of(plan, tilt)
    if plan.ice.grain:
        contrast += grain(
            shape,
            lens=lens,
            tilt=tilt,
            thickness_nm=float(path_nm.mean()),
            molecules_per_nm3=water_per_nm3(plan.ice.density_g_per_cm3),
            pixel_nm=pixel_nm,
            rng=generator(plan, "grain", stack, tilt.index),
        )
    return electrons(
        contrast, path_nm, shape=shape, tilt=tilt, ice=loss_of(plan), pixel_nm=pixel_nm
    )


def image_tilt(plan: Plan, stack: int, tilt: Tilt, *, scene: Scene) -> TiltImage:
    """One tilt, noisy and clean; the same bits whenever and wherever it is made."""
    expected = expected_electrons(plan, stack, tilt, scene=scene)
    detector = Detector(
        **plan.camera.model_dump(exclude={"width_px", "height_px", "frames"})
    )
    mtf = transfer(expected.shape, detector)
    rng = generator(plan, "noise", stack, tilt.index)
    if plan.camera.frames == 1:
        noisy = counted(expected, detector=detector, rng=rng)
        return TiltImage(
            noisy=recorded(noisy, detector=detector, transfer_at=mtf),
            clean=recorded(expected, detector=detector, transfer_at=mtf),
        )
    still = expected / np.float32(plan.camera.frames)
    clean = np.zeros_like(still)
    frames = np.empty((plan.camera.frames, *still.shape), np.float32)
    for number, place in enumerate(drift_nm(plan, stack, tilt) / plan.pixel_nm):
        moved = shifted(still, place)
        clean += moved
        noisy = counted(moved, detector=detector, rng=rng)
        frames[number] = recorded(noisy, detector=detector, transfer_at=mtf)
    return TiltImage(
        noisy=frames.sum(axis=0),
        clean=recorded(clean, detector=detector, transfer_at=mtf),
        frames=frames,
    )


def shifted(
    image: NDArray[np.float32], by_px: NDArray[np.float64]
) -> NDArray[np.float32]:
    """An image moved by `(y, x)` pixels; what leaves it at one side enters opposite."""
    if not by_px.any():
        return image
    spectrum = fourier_shift(scipy.fft.rfft2(image), by_px, n=image.shape[1])
    moved = scipy.fft.irfft2(spectrum, s=image.shape)
    return np.maximum(moved, 0).astype(np.float32)


def path_of(plan: Plan, tilt: Tilt, *, every: int = 1) -> NDArray[np.float32]:
    """The path of electrons in ice, nm, at each `every`th pixel; `(1, 1)` if even."""
    film = Film(
        thickness_nm=plan.ice.thickness_nm,
        edge_thickness_nm=plan.ice.edge_thickness_nm,
        hole_nm=plan.ice.hole_nm,
    )
    return mean_path_nm(
        film,
        tilt,
        shape=(plan.camera.height_px // every, plan.camera.width_px // every),
        pixel_nm=plan.pixel_nm * every,
        voltage_v=lens_of(plan).voltage_v,
        substance=ice_of(plan.ice.density_g_per_cm3),
    )


def loss_of(plan: Plan) -> Loss:
    """What the plan's ice takes away of an image."""
    objective, lens = plan.objective, lens_of(plan)
    # Of all tilts but one in millions.
    widest_um = max(abs(each) for each in objective.defocus_um)
    widest_um += 5 * objective.defocus_spread_um
    return loss(
        ice_of(plan.ice.density_g_per_cm3),
        voltage_v=lens.voltage_v,
        aperture_rad=lens.aperture_rad,
        energy_filter=plan.beam.energy_filter,
        inelastic_nm=plan.ice.inelastic_nm,
        widest_place=float(radial_frequencies(plan.pixel_nm)[-1] * 1000 * widest_um),
    )


def lens_of(plan: Plan) -> Lens:
    """The plan's lens and beam in the units of the physics."""
    objective, beam = plan.objective, plan.beam
    return Lens(
        voltage_v=1000 * beam.voltage_kv,
        energy_spread_ev=beam.energy_spread_ev,
        spherical_nm=1e6 * objective.spherical_mm,
        chromatic_nm=1e6 * objective.chromatic_mm,
        convergence_rad=1e-3 * beam.convergence_mrad,
        aperture_rad=1e-3 * objective.aperture_mrad,
        phase_plate_rad=float(np.deg2rad(objective.phase_plate_deg)),
        amplitude_contrast=objective.amplitude_contrast,
    )
