"""What is judged of a session's results, each by one number and one sentence."""

from collections.abc import Callable
from typing import Any

from em_platform.config.cryoem import CryoemLimits
from em_platform.model.check import Check, Severity
from em_platform.model.sentences import counted


def _at_most(limit: float, value: float | None, *, name: str, sentence: str) -> Check:
    """A check of a value; one that was not measured does not pass."""
    return Check(
        name=name,
        passed=value is not None and value <= limit,
        severity=Severity.WARN,
        sentence=sentence,
        value=value,
        limit=limit,
    )


def stage_checks(stage: str, found: Any, limits: CryoemLimits) -> list[Check]:
    """What is judged of a stage's result, in Dagster and at a terminal; or nothing."""
    judge = _OF_STAGES.get(stage)
    return judge(found, limits) if judge else []


def _motion_checks(found: Any, limits: CryoemLimits) -> list[Check]:
    """Whether the frames moved little enough; where it is not known, they did not."""
    total_a = found.total_motion_a if found.is_aligned else None
    moved = f"the frames moved by {found.total_motion_a:.0f} Å in all"
    if total_a is None:
        moved = "nothing of the frames stands out of their noise: none was moved"
    sentence = f"{moved}, at most {limits.motion_a:g} Å are wanted"
    name = "motion_is_small"
    return [_at_most(limits.motion_a, total_a, name=name, sentence=sentence)]


def _ctf_checks(found: Any, limits: CryoemLimits) -> list[Check]:
    """Whether the rings of a micrograph were fitted far enough, and well enough."""
    resolution_a, score = found.fit_resolution_a, found.score
    far = f"rings are fitted to {resolution_a:.1f} Å"
    if score <= 0:
        far = "no rings stand out from noise: the defocus means nothing"
    return [
        _at_most(
            limits.ctf_resolution_a,
            resolution_a,
            name="ctf_is_fitted_far",
            sentence=f"{far}, rings to {limits.ctf_resolution_a:g} Å are wanted",
        ),
        Check(
            name="ctf_fits_well",
            passed=score >= limits.ctf_score,
            severity=Severity.WARN,
            sentence=f"the fit's score is {score:.3f}, at least "
            f"{limits.ctf_score:g} is wanted",
            value=score,
            limit=limits.ctf_score,
        ),
    ]


def _particle_checks(found: Any, _limits: CryoemLimits) -> list[Check]:
    """Whether anything was picked."""
    particles = found.particles
    return [
        Check(
            name="particles_are_found",
            passed=particles > 0,
            severity=Severity.WARN,
            sentence=f"{counted(particles, 'particle')} found",
            value=particles,
        )
    ]


def tilts_check(there: int, expected: int | None, limits: CryoemLimits) -> Check:
    """Whether nearly all tilts of the mdoc are there."""
    if expected is None:
        why = (
            f"{counted(there, 'tilt')} present, and no mdoc states how many were imaged"
        )
        return Check.not_applicable("tilts_are_complete", why)
    missing = max(0, expected - there)
    return _at_most(
        limits.missing_tilts,
        missing,
        name="tilts_are_complete",
        sentence=f"{counted(there, 'tilt')} present and {missing} missing, at most "
        f"{limits.missing_tilts} may be",
    )


def blank_check(blank: tuple[str, ...]) -> Check:
    """Whether no tilt is blank or dark."""
    return Check(
        name="no_tilt_is_blank",
        passed=not blank,
        severity=Severity.WARN,
        sentence=f"{counted(len(blank), 'tilt')} left out as dark or blank",
        value=len(blank),
        limit=0,
        items=blank,
    )


def alignment_check(residual_px: float | None, limits: CryoemLimits) -> Check:
    """Whether the tilts lie on each other."""
    sentence = (
        "the alignment's residual could not be measured: no part of an image shows "
        "enough; look at the series"
        if residual_px is None
        else f"the alignment's residual is {residual_px:.2f} px, at most "
        f"{limits.alignment_residual_px:g} are wanted"
    )
    limit = limits.alignment_residual_px
    return _at_most(limit, residual_px, name="alignment_is_close", sentence=sentence)


def _alignment_checks(found: Any, limits: CryoemLimits) -> list[Check]:
    """What is judged of the result of `tilt-align`."""
    blank = tuple(f"{each.angle_deg:g} deg: {each.reason}" for each in found.excluded)
    thickness_nm = None if found.thickness_a is None else found.thickness_a / 10
    checks = [
        alignment_check(found.residual_px, limits),
        thickness_check(thickness_nm, limits),
    ]
    if not found.program.startswith("em-platform"):
        # What another program does not state is no fault of the series.
        checks = [
            each
            if each.value is not None
            else Check.not_applicable(each.name, f"{found.program} does not measure it")
            for each in checks
        ]
    return [blank_check(blank), *checks]


def thickness_check(thickness_nm: float | None, limits: CryoemLimits) -> Check:
    """Whether the ice is thin enough."""
    limit = limits.thickness_nm
    sentence = (
        "the thickness of the sample could not be measured: the images do not say, or "
        "their pixel size is not known; look at the tomogram"
        if thickness_nm is None
        else f"the sample is {thickness_nm:.0f} nm thick, at most {limit:g} are wanted"
    )
    return _at_most(limit, thickness_nm, name="ice_is_thin", sentence=sentence)


_OF_STAGES: dict[str, Callable[[Any, CryoemLimits], list[Check]]] = {
    "motion": _motion_checks,
    "ctf": _ctf_checks,
    "pick": _particle_checks,
    "tilt-align": _alignment_checks,
}
