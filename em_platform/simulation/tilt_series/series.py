"""The images of one tilt series: each tilt alone, from the plan and the sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.detector import (
    Detector,
    counted,
    recorded,
    transfer,
)
from em_platform.simulation.tilt_series.geometry import Film, Tilt
from em_platform.simulation.tilt_series.ice import faded, grain
from em_platform.simulation.tilt_series.image import (
    Particle,
    Scattering,
    electrons,
    linear_contrast,
    multislice_contrast,
    slices,
)
from em_platform.simulation.tilt_series.optics import Defocus, Lens
from em_platform.simulation.tilt_series.plan import Plan, angles, generator
from em_platform.simulation.tilt_series.project import Template


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltImage:
    """One section of a stack, as the camera gives it, `(h, w)` float32."""

    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]
    """The expected counts: without noise."""


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


def image_tilt(
    plan: Plan,
    stack: int,
    tilt: Tilt,
    *,
    particles: Sequence[Particle],
    templates: Sequence[Template],
) -> TiltImage:
    """One tilt, noisy and clean; the same bits whenever and wherever it is made."""
    shape = plan.camera.height_px, plan.camera.width_px
    film = film_of(plan)
    lens = lens_of(plan)
    layers = slices(
        particles, templates, tilt,
        shape=shape, pixel_nm=plan.pixel_nm, voltage_v=lens.voltage_v,
    )  # fmt: skip
    contrast_of = linear_contrast if plan.mode == "linear" else multislice_contrast
    contrast = contrast_of(
        layers, lens=lens, tilt=tilt, pixel_nm=plan.pixel_nm, shape=shape
    )
    if plan.errors.radiation_damage:
        contrast = faded(contrast, lens=lens, tilt=tilt, pixel_nm=plan.pixel_nm)
    if plan.ice.grain:
        contrast += grain(
            shape,
            lens=lens,
            tilt=tilt,
            thickness_nm=plan.ice.thickness_nm / np.cos(np.deg2rad(tilt.tilt_deg)),
            pixel_nm=plan.pixel_nm,
            rng=generator(plan, "grain", stack, tilt.index),
        )
    expected = electrons(
        contrast,
        tilt=tilt,
        film=film,
        scattering=scattering_of(plan),
        pixel_nm=plan.pixel_nm,
    )
    detector = Detector(
        **plan.camera.model_dump(exclude={"width_px", "height_px", "frames"})
    )
    mtf = transfer(shape, detector)
    rng = generator(plan, "noise", stack, tilt.index)
    noisy = counted(expected, detector=detector, rng=rng)
    return TiltImage(
        noisy=recorded(noisy, detector=detector, transfer_at=mtf),
        clean=recorded(expected, detector=detector, transfer_at=mtf),
    )


def lens_of(plan: Plan) -> Lens:
    """The objective lens and the beam of a plan."""
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


def film_of(plan: Plan) -> Film:
    """The ice and its hole."""
    return Film(
        thickness_nm=plan.ice.thickness_nm,
        edge_thickness_nm=plan.ice.edge_thickness_nm,
        hole_nm=plan.ice.hole_nm,
    )


def scattering_of(plan: Plan) -> Scattering:
    """How ice and carbon take electrons away."""
    ice = plan.ice
    return Scattering(
        ice_inelastic_nm=ice.inelastic_nm,
        ice_lost_nm=ice.lost_nm,
        carbon_inelastic_nm=ice.carbon_inelastic_nm,
        carbon_lost_nm=ice.carbon_lost_nm,
        energy_filter=plan.beam.energy_filter,
    )
