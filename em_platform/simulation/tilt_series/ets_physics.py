"""Microscope and ice of a TEM-simulator configuration, as fields of a plan."""

from math import sqrt
from typing import TypeAlias, TypedDict

from em_platform.errors import ConfigError
from em_platform.simulation.tilt_series.tem_config import Component

_UNEVEN = 0.01  # of a pixel size: 0.283 beside 15 um / 53000 = 0.28302 is the same

_ONLY: dict[str, dict[str, tuple[str, ...]]] = {
    "simulation": {"generate_micrographs": ("yes",), "generate_volumes": ("no",)},
    "geometry": {
        "gen_tilt_data": ("yes",),
        "geom_errors": ("none", "random"),
        "tilt_mode": ("tiltseries",),
    },
    "electronbeam": {"gen_dose": ("yes",)},
    "optics": {"gen_defocus": ("yes",)},
    "sample": {"offset_x": ("0",), "offset_y": ("0",)},
    "detector": {"mtf_p": ("1",), "mtf_q": ("1",), "image_axis_order": ("xy",)},
}
"""Values that the plan can say; the program knows others, which read further files."""

_ICE_G_PER_CM3 = 1.002
"""33.5 molecules in a nm^3, as TEM-simulator has it."""

Numbers: TypeAlias = dict[str, float]


class Physics(TypedDict):
    """What of a plan such a configuration says; the `Plan` checks it."""

    seed: int
    mode: str
    tilts: dict[str, str | float]
    beam: Numbers
    objective: dict[str, float | tuple[float, ...]]
    camera: Numbers
    ice: Numbers
    errors: Numbers


_NEEDED = ("sample", "geometry", "electronbeam", "optics", "detector")


def physics(components: list[Component], *, apix_nm: float, source: str) -> Physics:
    """Fields of a plan.

    TEM-simulator models neither the grain of the ice nor radiation damage nor an
    energy filter, so they are off. Its energy spread is sqrt(2) standard deviations,
    and its shift error is that of both axes together.

    Raises
    ------
    ConfigError
        A component is missing or says what a plan cannot, or `apix` is not the pixel
        of the detector.
    FormatError
        A parameter is missing or no number.
    """
    found = _only_once(components, source)
    geometry, beam, optics = (found[k] for k in ("geometry", "electronbeam", "optics"))
    sample, detector = found["sample"], found["detector"]
    pixel_nm = 1000 * detector.number("pixel_size") / optics.number("magnification")
    _check_apix(apix_nm, pixel_nm, source)
    tilts = round(geometry.number("ntilts"))
    noisy = detector.flag("use_quantization", True)
    errors = geometry.values["geom_errors"] == "random"
    simulation = found.get("simulation", Component(kind="simulation", values={}))
    return {
        "seed": round(simulation.number("rand_seed", 0)),
        "mode": "multislice",
        "tilts": _tilts(geometry, tilts),
        "beam": {
            "voltage_kv": beam.number("acc_voltage"),
            "energy_spread_ev": beam.number("energy_spread") / sqrt(2),
            "convergence_mrad": optics.number("cond_ap_angle"),
            "dose_per_tilt_e_per_nm2": _dose(beam, tilts),
            "dose_spread": beam.number("dose_sd", 0),
            "energy_filter": False,
        },
        "objective": {
            "defocus_um": (optics.number("defocus_nominal"),),
            "defocus_spread_um": optics.number("defocus_nonsyst_error", 0),
            "spherical_mm": optics.number("cs"),
            "chromatic_mm": optics.number("cc"),
            "aperture_mrad": optics.number("aperture")
            / 2
            / optics.number("focal_length"),
            "amplitude_contrast": 0,
        },
        "camera": {
            "width_px": round(detector.number("det_pix_x")),
            "height_px": round(detector.number("det_pix_y")),
            "gain": detector.number("gain"),
            "dqe": detector.number("dqe") if noisy else 1,
            **{
                name: detector.number(name)
                for name in ("mtf_a", "mtf_b", "mtf_c", "mtf_alpha", "mtf_beta")
            },
        },
        "ice": {
            "thickness_nm": sample.number("thickness_center"),
            "edge_thickness_nm": sample.number("thickness_edge"),
            "hole_nm": sample.number("diameter"),
            "grain": False,
            "inelastic_nm": 0,
            "density_g_per_cm3": _ICE_G_PER_CM3,
        },
        "errors": {
            "tilt_deg": geometry.number("tilt_err", 0) if errors else 0,
            "rotation_deg": geometry.number("align_err_rot", 0) if errors else 0,
            "shift_nm": geometry.number("align_err_tr", 0) / sqrt(2) if errors else 0,
            "radiation_damage": False,
        },
    }


def _only_once(components: list[Component], source: str) -> dict[str, Component]:
    """One component of each kind; of two detectors the first: it has the noise."""
    found: dict[str, Component] = {}
    for component in components:
        if component.kind in ("particle", "particleset", "volume"):
            raise ConfigError(
                f"{source}: found a component {component.kind}, none was expected: "
                "particles come from configs.yaml; take it out"
            )
        if component.kind in found and component.kind != "detector":
            raise ConfigError(
                f"{source}: found the component {component.kind} twice, one was "
                "expected; take one out"
            )
        for name, allowed in _ONLY.get(component.kind, {}).items():
            value = component.values.get(name, allowed[0])
            if value not in allowed and not _is_same(value, allowed[0]):
                raise ConfigError(
                    f"{source}: found {name} = {value} in {component.kind}, "
                    f"{' or '.join(allowed)} was expected, as a plan can say no other; "
                    "correct it"
                )
        found.setdefault(component.kind, component)
    missing = [kind for kind in _NEEDED if kind not in found]
    if missing or "geom_errors" not in found["geometry"].values:
        raise ConfigError(
            f"{source}: found no {missing[0] if missing else 'geom_errors'}, the "
            "components of a micrograph were expected; add it"
        )
    return found


def _is_same(value: object, allowed: str) -> bool:
    try:
        return float(str(value)) == float(allowed)
    except ValueError:
        return False


def _check_apix(apix_nm: float, pixel_nm: float, source: str) -> None:
    if abs(apix_nm / pixel_nm - 1) <= _UNEVEN:
        return
    unit = abs(apix_nm / pixel_nm - 10) <= 10 * _UNEVEN
    what = "it looks like Å" if unit else "one of the two is wrong"
    raise ConfigError(
        f"configs.yaml: found apix {apix_nm:g}, but pixel_size / magnification of "
        f"{source} is {pixel_nm:.4g} nm; apix is in nm and {what}, correct it"
    )


def _tilts(geometry: Component, tilts: int) -> dict[str, str | float]:
    first, step = geometry.number("theta_start"), geometry.number("theta_incr")
    # A stack of ours goes by rising angle, however it was taken.
    low = first if step > 0 else first + (tilts - 1) * step
    return {
        "first_deg": low,
        "step_deg": abs(step),
        "tilts": tilts,
        "axis_deg": geometry.number("tilt_axis", 0),
        "order": "linear",
    }


def _dose(beam: Component, tilts: int) -> float:
    if "dose_per_im" in beam.values:
        return beam.number("dose_per_im")
    return beam.number("total_dose") / tilts
