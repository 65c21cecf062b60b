"""Is a simulated stack what its plan and its truth say: the checks of its files."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from em_platform.model import Check, Severity
from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.backends.embedded import Embedded
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.image import Particle
from em_platform.simulation.tilt_series.optics import Defocus, wavelength_nm
from em_platform.simulation.tilt_series.plan import FIDUCIAL
from em_platform.simulation.tilt_series.series import lens_of
from em_platform.simulation.tilt_series.thon import thon_defocus_nm
from em_platform.simulation.tilt_series.truth import TiltTruth, Truth

MOST_OFF_COUNTS = 0.01
MOST_OFF_DEFOCUS = 0.02
LEAST_CORRELATION = 0.9
"""Limits of the checks; those that the simulator was accepted by."""

_SIGMAS = 4.0  # of the shot noise of a mean: few electrons are further off by chance
_ONE_RING_RAD = np.pi  # of the phase at the highest frequency: less shows no ring


def stack_file(folder: Path, name: str) -> Path:
    """The images with noise."""
    return folder / f"{name}.mrc"


def clean_file(folder: Path, name: str) -> Path:
    """The images without noise."""
    return folder / f"{name}_clean.mrc"


def check_files(folder: Path, truth: Truth) -> Check:
    """Are both stacks valid MRC files with a section a tilt."""
    wrong = []
    for path in (stack_file(folder, truth.stack), clean_file(folder, truth.stack)):
        reason = _invalid(path, sections=len(truth.tilts))
        wrong += [f"{path.name}: {reason}"] if reason else []
    sentence = f"Both stacks are valid MRC files of {len(truth.tilts)} sections."
    if wrong:
        sentence = (
            f"Not valid: {'; '.join(wrong)}; delete the stack's folder and materialize "
            "sim_tilt_stack again."
        )
    return _check("stacks_are_valid", wrong, sentence, value=len(wrong), limit=0)


def _invalid(path: Path, *, sections: int) -> str:
    try:
        with warnings.catch_warnings(), mrcfile.mmap(path) as file:
            warnings.simplefilter("ignore")
            found = int(file.header.nz)
    except (OSError, ValueError) as error:
        return str(error).splitlines()[0]
    if found != sections:
        return f"{found} sections, {sections} expected"
    # It prints what is wrong line by line; one sentence is enough here.
    with open("/dev/null", "w") as nowhere:
        valid = mrcfile.validate(path, print_file=nowhere)
    return "" if valid else "mrcfile.validate refuses it"


def check_counts(folder: Path, truth: Truth) -> Check:
    """Is the mean of each tilt what dose, pixel area and ice let expect."""
    plan = truth.plan
    pixels = plan.camera.height_px * plan.camera.width_px
    off: dict[str, float] = {}
    worst = 0.0
    for tilt in truth.tilts:
        counted = tilt.dose_e_per_nm2 * plan.pixel_nm**2 * tilt.transmission
        expected = counted * plan.camera.gain
        found = float(section_of(folder, truth, tilt).mean(dtype=np.float64))
        each = abs(found / expected - 1)
        worst = max(worst, each)
        noise = _SIGMAS / np.sqrt(counted * pixels * plan.camera.dqe)
        if each > MOST_OFF_COUNTS + noise:
            off[f"{tilt.nominal_deg:g} degrees"] = each
    sentence = (
        f"The mean counts of all {len(truth.tilts)} tilts are those of dose x pixel "
        f"area x transmission (worst: {worst:.2%} off, {MOST_OFF_COUNTS:.0%} allowed)."
    )
    if off:
        sentence = (
            f"Mean counts are off by more than {MOST_OFF_COUNTS:.0%} in {len(off)} of "
            f"{len(truth.tilts)} tilts: {_named(off)}; particles that fill the image "
            "take electrons away, else report it."
        )
    return _check(
        "counts_are_expected", off, sentence, value=worst, limit=MOST_OFF_COUNTS
    )


def check_rings(folder: Path, truth: Truth) -> Check:
    """Do the Thon rings of the untilted image tell the defocus of the truth."""
    plan, tilt = truth.plan, central(truth)
    mean = sum(tilt.defocus_nm) / 2
    lens = lens_of(plan)
    highest = np.pi * wavelength_nm(lens.voltage_v) * mean / (2 * plan.pixel_nm) ** 2
    name, limit = "thon_rings_match_truth", MOST_OFF_DEFOCUS
    if not plan.ice.grain or abs(highest) < _ONE_RING_RAD:
        why = (
            "the ice scatters nothing" if not plan.ice.grain else "pixels are too wide"
        )
        return Check.not_applicable(name, f"{why}, so that there are no Thon rings.")
    # Without shot noise: in one image it hides the rings.
    image = section_in(clean_file(folder, truth.stack), tilt.section)
    found = thon_defocus_nm(
        image, lens=lens, defocus=defocus_of(tilt), pixel_nm=plan.pixel_nm
    )
    off = abs(found / mean - 1)
    sentence = (
        f"The Thon rings at {tilt.nominal_deg:g} degrees tell a defocus of "
        f"{found:.0f} nm, {mean:.0f} nm were set ({off:.1%} off, {limit:.0%} allowed)"
    )
    wrong = off > limit
    sentence += "; compare the picture of the rings." if wrong else "."
    return _check(name, [truth.stack] * wrong, sentence, value=off, limit=limit)


def check_projections(folder: Path, truth: Truth, sample: Sample) -> Check:
    """Do the poses of the truth, projected again, give the images.

    The first, the central and the last tilt are made again from `truth` alone; of the
    sample only the maps are taken.
    """
    name, limit = "images_match_truth", LEAST_CORRELATION
    if truth.backend != Embedded.name:
        why = f"made by {truth.backend}, which this program cannot do again."
        return Check.not_applicable(name, why)
    shown = sorted({0, central(truth).section, len(truth.tilts) - 1})
    again = Embedded().images(
        truth.plan,
        truth.number,
        sample=replace(sample, particles=particles_of(truth, sample)),
        tilts=[tilt_of(truth.tilts[section]) for section in shown],
    )
    clean = clean_file(folder, truth.stack)
    found = {
        f"{truth.tilts[section].nominal_deg:g} degrees": correlation(
            made.clean, section_in(clean, section)
        )
        for section, made in zip(shown, again, strict=True)
    }
    worst = min(found.values())
    wrong = [tilt for tilt, each in found.items() if each < limit]
    sentence = (
        f"The poses of the truth give the images of {len(found)} tilts again "
        f"(correlation {worst:.3f} at least, {limit:g} needed)."
    )
    if wrong:
        sentence = (
            f"The poses of the truth do not give the images: correlation {worst:.3f}, "
            f"at least {limit:g} expected ({', '.join(wrong)}); materialize sim_sample "
            "and sim_tilt_stack again."
        )
    return _check(name, wrong, sentence, value=worst, limit=limit)


def particles_of(truth: Truth, sample: Sample) -> tuple[Particle, ...]:
    """Particles and beads where the truth says they are, by the sample's maps."""
    names = [each.name for each in sample.maps]
    posed = [
        Particle(
            template=names.index(each.name),
            position_nm=each.position_nm,
            rotation=Rotation.from_quat(each.quaternion_xyzw).as_matrix(),
        )
        for each in truth.particles
    ]
    beads = [
        Particle(
            template=names.index(FIDUCIAL),
            position_nm=each.position_nm,
            rotation=np.eye(3),
        )
        for each in truth.fiducials
    ]
    return (*posed, *beads)


def central(truth: Truth) -> TiltTruth:
    """The tilt nearest to zero."""
    return min(truth.tilts, key=lambda tilt: abs(tilt.nominal_deg))


def tilt_of(tilt: TiltTruth) -> Tilt:
    """As stage and beam really were."""
    return Tilt(
        index=tilt.section,
        order=tilt.order,
        nominal_deg=tilt.nominal_deg,
        tilt_deg=tilt.tilt_deg,
        axis_deg=tilt.axis_deg,
        shift_nm=tilt.shift_nm,
        dose_per_nm2=tilt.dose_e_per_nm2,
        prior_dose_per_nm2=tilt.prior_dose_e_per_nm2,
        defocus=defocus_of(tilt),
    )


def defocus_of(tilt: TiltTruth) -> Defocus:
    """Its defocus along the azimuth and across."""
    u_nm, v_nm = tilt.defocus_nm
    return Defocus(
        u_nm=u_nm, v_nm=v_nm, azimuth_rad=float(np.deg2rad(tilt.azimuth_deg))
    )


def correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Normalised cross-correlation; 1 where both are even."""
    a, b = one - one.mean(), other - other.mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum() / length) if length else 1.0


def section_of(folder: Path, truth: Truth, tilt: TiltTruth) -> NDArray[np.float32]:
    """One image with noise, `(h, w)`."""
    return section_in(stack_file(folder, truth.stack), tilt.section)


def section_in(path: Path, section: int) -> NDArray[np.float32]:
    """One section of a stack, `(h, w)`."""
    with mrcfile.mmap(path, permissive=True) as file:
        # A stack of one tilt is an image for this reader.
        return np.array(np.atleast_3d(file.data.T).T[section], np.float32)


def _check(
    name: str,
    wrong: Iterable[str],
    sentence: str,
    *,
    value: float,
    limit: float,
) -> Check:
    items: Sequence[str] = tuple(wrong)
    return Check(
        name=name,
        passed=not items,
        severity=Severity.ERROR,
        sentence=sentence,
        value=value,
        limit=limit,
        items=tuple(items),
    )


def _named(off: dict[str, float]) -> str:
    shown = [f"{name} ({value:.1%})" for name, value in list(off.items())[:3]]
    more = len(off) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
