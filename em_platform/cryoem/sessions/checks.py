"""What is judged of a session's results, each by one number and one sentence."""

from em_platform.config.cryoem import CryoemLimits
from em_platform.model.check import Check, Severity


def motion_check(total_a: float, limits: CryoemLimits) -> Check:
    """Whether the frames moved little enough."""
    return Check(
        name="motion_is_small",
        passed=total_a <= limits.motion_a,
        severity=Severity.WARN,
        sentence=f"the frames moved by {total_a:.0f} Å in all, at most "
        f"{limits.motion_a:g} are wanted",
        value=total_a,
        limit=limits.motion_a,
    )


def ctf_checks(
    resolution_a: float, score: float, limits: CryoemLimits
) -> tuple[Check, Check]:
    """Whether the rings were fitted far enough, and well enough."""
    return (
        Check(
            name="ctf_is_fitted_far",
            passed=resolution_a <= limits.ctf_resolution_a,
            severity=Severity.WARN,
            sentence=f"rings are fitted to {resolution_a:.1f} Å, "
            f"{limits.ctf_resolution_a:g} or finer is wanted",
            value=resolution_a,
            limit=limits.ctf_resolution_a,
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
    )


def particles_check(particles: int) -> Check:
    """Whether anything was picked."""
    return Check(
        name="particles_are_found",
        passed=particles > 0,
        severity=Severity.WARN,
        sentence=f"{particles} particles were found",
        value=particles,
    )


def tilts_check(there: int, expected: int | None, limits: CryoemLimits) -> Check:
    """Whether nearly all tilts of the mdoc are there."""
    missing = max(0, (expected or there) - there)
    return Check(
        name="tilts_are_complete",
        passed=missing <= limits.missing_tilts,
        severity=Severity.WARN,
        sentence=f"{there} tilts are there and {missing} are missing, at most "
        f"{limits.missing_tilts} may be",
        value=missing,
        limit=limits.missing_tilts,
    )
