"""Movies -> micrographs -> CTF -> particles -> classes, or tilt series -> tomograms."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from em_platform.assets.checks import check_results, check_specs, dagster_failures
from em_platform.assets.metadata import Metadata, picture, place, short, table
from em_platform.cryoem.sessions.checks import (
    alignment_checks,
    ctf_checks,
    motion_check,
    particles_check,
    tilts_check,
)
from em_platform.cryoem.sessions.processing import Made
from em_platform.cryoem.sessions.tomography import (
    align,
    assemble,
    denoise,
    draw,
    draw_denoised,
    expected_tilts,
    reconstruct,
    sample_truth,
    shifts_truth,
)
from em_platform.cryoem.sessions.truth import (
    alignment_truth,
    defocus_truth,
    motion_truth,
)
from em_platform.partitions import CRYOEM
from em_platform.partitions import movies as movie_partitions
from em_platform.partitions import sessions as session_partitions
from em_platform.partitions import tilt_series as series_partitions
from em_platform.resources.cryoem import CryoemSessions

_OWNERS = ["team:image-processing"]
_PICTURES = (".png", ".jpeg", ".jpg")
_STILLS = (".jpeg", ".jpg")
_MICROGRAPH_CHECKS = {
    "motion_is_small": "The frames moved less than the limit.",
}
_MOTION_TRUTH = {
    "motion_matches_truth": "The frames moved as they were moved; of simulated ones."
}
_CTF_TRUTH = {
    "defocus_matches_truth": "The defocus is the true one; of simulated movies."
}
_ALIGNMENT_TRUTH = {
    "shifts_match_truth": "The tilts lie where they are; of simulated ones."
}
_TOMOGRAM_TRUTH = {
    "tomogram_matches_truth": "The tomogram shows the true sample; of simulated ones."
}
_CTF_CHECKS = {
    "ctf_is_fitted_far": "Thon rings are fitted as far as wanted.",
    "ctf_fits_well": "The fitted rings correlate with the spectrum.",
}
_SERIES_CHECKS = {"tilts_are_complete": "Nearly all tilts of the mdoc are there."}
_ALIGNMENT_CHECKS = {
    "no_tilt_is_blank": "No tilt had to be left out as dark or blank.",
    "alignment_is_close": "What is left between a tilt and the others is small.",
    "ice_is_thin": "The sample is not thicker than the limit.",
}
_PICK_CHECKS = {"particles_are_found": "The micrograph has particles."}


@dg.asset(
    group_name="cryoem",
    partitions_def=movie_partitions,
    kinds={"mrc", "tiff"},
    owners=_OWNERS,
    pool=CRYOEM,
)
def movies(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """The frames of one movie, as they came from the camera."""
    with dagster_failures(), cryoem.open() as sessions:
        facts = sessions.facts(context.partition_key)
    header = facts.header
    return dg.MaterializeResult(
        metadata={
            "path": place(str(facts.movie.path)),
            "session": facts.movie.session,
            "tilt series": facts.movie.series or "none",
            "frames": facts.frames,
            "size, px": f"{facts.width_px} x {facts.height_px}",
            "pixel, Å": str(header.pixel_size_a or "not stated"),
        }
    )


@dg.asset(
    group_name="cryoem",
    partitions_def=movie_partitions,
    deps=[movies],
    kinds={"mrc", "numba"},
    owners=_OWNERS,
    pool=CRYOEM,
    check_specs=check_specs("micrographs", _MICROGRAPH_CHECKS, movie_partitions),
)
def micrographs(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """The sum of a movie's frames, corrected for motion, dose and gain."""
    with dagster_failures(), cryoem.open() as sessions:
        made = sessions.correct(context.partition_key)
    check = motion_check(made.result.total_motion_a, cryoem.limits())
    return dg.MaterializeResult(
        metadata=shown(made), check_results=check_results([check], "micrographs")
    )


@dg.asset(
    group_name="cryoem",
    partitions_def=movie_partitions,
    deps=[micrographs],
    kinds={"mrc", "numba"},
    owners=_OWNERS,
    pool=CRYOEM,
    check_specs=check_specs("ctf_fits", _CTF_CHECKS, movie_partitions),
)
def ctf_fits(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """Defocus and astigmatism of a micrograph, by its Thon rings."""
    with dagster_failures(), cryoem.open() as sessions:
        made = sessions.fit_ctf(context.partition_key)
    fit = made.result
    checks = ctf_checks(fit.fit_resolution_a, fit.score, cryoem.limits())
    return dg.MaterializeResult(
        metadata=shown(made), check_results=check_results(checks, "ctf_fits")
    )


@dg.asset(
    group_name="cryoem",
    partitions_def=movie_partitions,
    deps=[micrographs],
    kinds={"star"},
    owners=_OWNERS,
    pool=CRYOEM,
    check_specs=check_specs("particle_picks", _PICK_CHECKS, movie_partitions),
)
def particle_picks(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """Where the particles of a micrograph are."""
    with dagster_failures(), cryoem.open() as sessions:
        made = sessions.pick(context.partition_key)
    check = particles_check(made.result.particles)
    return dg.MaterializeResult(
        metadata=shown(made), check_results=check_results([check], "particle_picks")
    )


@dg.asset(
    group_name="cryoem",
    partitions_def=movie_partitions,
    deps=[particle_picks, ctf_fits],
    kinds={"mrc", "star"},
    owners=_OWNERS,
    pool=CRYOEM,
)
def particles(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """The particles of a micrograph, cut out and normalised."""
    with dagster_failures(), cryoem.open() as sessions:
        made = sessions.extract(context.partition_key)
    return dg.MaterializeResult(metadata=shown(made))


@dg.asset(
    group_name="cryoem",
    partitions_def=session_partitions,
    # Which movies are of the session stands in their keys and in its ledger.
    deps=[dg.AssetDep(particles, partition_mapping=dg.AllPartitionMapping())],
    kinds={"mrc", "star"},
    owners=_OWNERS,
    pool=CRYOEM,
)
def classes(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """The particles of a session, sorted into 2-D classes."""
    with dagster_failures(), cryoem.open() as sessions:
        made = sessions.classify(context.partition_key)
    rows = [
        (each.number, each.particles, short(each.resolution_a or 0.0))
        for each in made.result.classes
    ]
    columns = ("class", "particles", "resolution, Å")
    return dg.MaterializeResult(
        metadata=shown(made) | {"classes": table(columns, rows)}
    )


@dg.asset(
    group_name="cryoem",
    partitions_def=series_partitions,
    # Which movies are of the series stands in their names and in the ledger.
    deps=[dg.AssetDep(micrographs, partition_mapping=dg.AllPartitionMapping())],
    kinds={"mrc"},
    owners=_OWNERS,
    pool=CRYOEM,
    check_specs=check_specs("tilt_series", _SERIES_CHECKS, series_partitions),
)
def tilt_series(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """The micrographs of a tilt series in one stack, by rising angle."""
    with dagster_failures(), cryoem.open() as sessions:
        made = assemble(sessions, context.partition_key)
        expected = expected_tilts(sessions, context.partition_key)
    check = tilts_check(len(made.result.tilts_deg), expected, cryoem.limits())
    return dg.MaterializeResult(
        metadata=shown(made), check_results=check_results([check], "tilt_series")
    )


@dg.asset(
    group_name="cryoem",
    partitions_def=series_partitions,
    deps=[tilt_series],
    kinds={"numba"},
    owners=_OWNERS,
    pool=CRYOEM,
    check_specs=check_specs("alignments", _ALIGNMENT_CHECKS, series_partitions),
)
def alignments(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """Shifts of the tilts, the tilt axis, and the thickness of the ice."""
    with dagster_failures(), cryoem.open() as sessions:
        made = align(sessions, context.partition_key)
    checks = alignment_checks(made.result, cryoem.limits())
    return dg.MaterializeResult(
        metadata=shown(made) | {"tilts": tilts_table(made.result.tilts)},
        check_results=check_results(checks, "alignments"),
    )


@dg.asset(
    group_name="cryoem",
    partitions_def=series_partitions,
    deps=[tilt_series, alignments],
    kinds={"mrc", "numba"},
    owners=_OWNERS,
    pool=CRYOEM,
)
def tomograms(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """The volume of a tilt series, by weighted back-projection."""
    with dagster_failures(), cryoem.open() as sessions:
        made = reconstruct(sessions, context.partition_key)
    return dg.MaterializeResult(metadata=shown(made))


@dg.asset(
    group_name="cryoem",
    partitions_def=series_partitions,
    deps=[tomograms],
    kinds={"mrc"},
    owners=_OWNERS,
    pool=CRYOEM,
)
def denoised(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """The tomogram with less noise, by total variation."""
    with dagster_failures(), cryoem.open() as sessions:
        made = denoise(sessions, context.partition_key)
        drawn = draw_denoised(sessions, context.partition_key)
    label = "central slice"
    return dg.MaterializeResult(metadata=shown(made) | {label: _picture(drawn, label)})


@dg.asset(
    group_name="cryoem",
    partitions_def=series_partitions,
    deps=[tilt_series, alignments, denoised],
    kinds={"jpeg", "png"},
    owners=_OWNERS,
    pool=CRYOEM,
)
def thumbnails(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """Pictures of a tomogram and of its alignment."""
    with dagster_failures(), cryoem.open() as sessions:
        drawn = draw(sessions, context.partition_key)
    stills = {k: v for k, v in drawn.items() if v.suffix in _STILLS}
    return dg.MaterializeResult(
        metadata={
            **{label: _picture(path, label) for label, path in stills.items()},
            **{f"{label}, file": place(str(path)) for label, path in drawn.items()},
        }
    )


@dg.multi_asset_check(
    name="compare_motion_with_truth",
    specs=check_specs("micrographs", _MOTION_TRUTH, movie_partitions),
    can_subset=True,
    pool=CRYOEM,
)
def compare_motion_with_truth(
    context: dg.AssetCheckExecutionContext, cryoem: CryoemSessions
) -> Iterator[dg.AssetCheckResult]:
    """Compare the motion of a simulated movie with how it was made."""
    with dagster_failures(), cryoem.open() as sessions:
        made = sessions.correct(context.partition_key)
        checks = motion_truth(made.result, sessions.movie_truth(context.partition_key))
    yield from check_results(checks, "micrographs")


@dg.multi_asset_check(
    name="compare_defocus_with_truth",
    specs=check_specs("ctf_fits", _CTF_TRUTH, movie_partitions),
    can_subset=True,
    pool=CRYOEM,
)
def compare_defocus_with_truth(
    context: dg.AssetCheckExecutionContext, cryoem: CryoemSessions
) -> Iterator[dg.AssetCheckResult]:
    """Compare the defocus of a simulated movie with the true one."""
    with dagster_failures(), cryoem.open() as sessions:
        made = sessions.fit_ctf(context.partition_key)
        checks = defocus_truth(made.result, sessions.movie_truth(context.partition_key))
    yield from check_results(checks, "ctf_fits")


@dg.multi_asset_check(
    name="compare_shifts_with_truth",
    specs=check_specs("alignments", _ALIGNMENT_TRUTH, series_partitions),
    can_subset=True,
    pool=CRYOEM,
)
def compare_shifts_with_truth(
    context: dg.AssetCheckExecutionContext, cryoem: CryoemSessions
) -> Iterator[dg.AssetCheckResult]:
    """Compare the alignment of a simulated tilt series with the true one."""
    with dagster_failures(), cryoem.open() as sessions:
        made = align(sessions, context.partition_key)
        shifts = shifts_truth(sessions, context.partition_key)
    yield from check_results(alignment_truth(made.result, shifts), "alignments")


@dg.multi_asset_check(
    name="compare_tomogram_with_truth",
    specs=check_specs("tomograms", _TOMOGRAM_TRUTH, series_partitions),
    can_subset=True,
    pool=CRYOEM,
)
def compare_tomogram_with_truth(
    context: dg.AssetCheckExecutionContext, cryoem: CryoemSessions
) -> Iterator[dg.AssetCheckResult]:
    """Compare the tomogram of a simulated tilt series with the true sample."""
    with dagster_failures(), cryoem.open() as sessions:
        checks = sample_truth(sessions, context.partition_key)
    yield from check_results(checks, "tomograms")


def shown(made: Made) -> Metadata:
    """The numbers and pictures of a stage's result."""
    found: Metadata = {"path": place(str(made.folder))}
    for name, value in dict(made.result).items():
        label = name.replace("_", " ")
        if isinstance(value, bool | int | str):
            found[label] = value
        elif isinstance(value, float):
            found[label] = short(value)
        if isinstance(value, str) and value.endswith(_PICTURES):
            found[label] = _picture(made.folder / value, label)
    return found


def _picture(path: Path, label: str) -> Any:
    return picture(path.read_bytes(), label) if path.is_file() else "none"


def tilts_table(tilts: Sequence[Any]) -> dg.MetadataValue:
    """Angle and shift of each tilt."""
    rows = [(t.angle_deg, t.dx_px, t.dy_px, short(t.residual_px or 0.0)) for t in tilts]
    return table(("angle, deg", "dx, px", "dy, px", "residual, px"), rows)
