"""Movies -> micrographs -> CTF -> particles -> classes, or tilt series -> tomograms."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dagster as dg

from em_platform.assets.checks import check_results, check_specs, dagster_failures
from em_platform.assets.metadata import Metadata, picture, place, short, table
from em_platform.cryoem.sessions import comparisons, tomography
from em_platform.cryoem.sessions.checks import stage_checks, tilts_check
from em_platform.cryoem.sessions.processing import Sessions, StageOutput
from em_platform.model.check import Check
from em_platform.partitions import CRYOEM
from em_platform.partitions import movies as movie_partitions
from em_platform.partitions import sessions as session_partitions
from em_platform.partitions import tilt_series as series_partitions
from em_platform.resources.cryoem import CryoemSessions

_OWNERS = ["team:image-processing"]
_PICTURES = (".png", ".jpeg", ".jpg")
_STILLS = (".jpeg", ".jpg")


def _asset(
    partitions_def: dg.PartitionsDefinition,
    *,
    kinds: set[str],
    deps: Sequence[dg.AssetsDefinition | dg.AssetDep] = (),
    checks: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
    """An asset of cryo-EM, with its checks (name -> what it states)."""

    def make(function: Callable[..., dg.MaterializeResult]) -> dg.AssetsDefinition:
        return dg.asset(
            group_name="cryoem",
            partitions_def=partitions_def,
            deps=deps,
            kinds=kinds,
            owners=_OWNERS,
            pool=CRYOEM,
            check_specs=check_specs(function.__name__, checks, partitions_def),
        )(function)

    return make


@_asset(movie_partitions, kinds={"mrc", "tiff"})
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


@_asset(
    movie_partitions,
    deps=[movies],
    kinds={"mrc", "numba"},
    checks={"motion_is_small": "The frames moved less than the limit."},
)
def micrographs(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """The sum of a movie's frames, corrected for motion, dose and gain."""
    with dagster_failures(), cryoem.open() as sessions:
        made = sessions.correct(context.partition_key)
    checks = stage_checks("motion", made.result, cryoem.limits())
    return dg.MaterializeResult(
        metadata=shown(made), check_results=check_results(checks, "micrographs")
    )


@_asset(
    movie_partitions,
    deps=[micrographs],
    kinds={"mrc", "numba"},
    checks={
        "ctf_is_fitted_far": "Thon rings are fitted as far as wanted.",
        "ctf_fits_well": "The fitted rings correlate with the spectrum.",
    },
)
def ctf_fits(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """Defocus and astigmatism of a micrograph, by its Thon rings."""
    with dagster_failures(), cryoem.open() as sessions:
        made = sessions.fit_ctf(context.partition_key)
    checks = stage_checks("ctf", made.result, cryoem.limits())
    return dg.MaterializeResult(
        metadata=shown(made), check_results=check_results(checks, "ctf_fits")
    )


@_asset(
    movie_partitions,
    deps=[micrographs],
    kinds={"star"},
    checks={"particles_are_found": "The micrograph has particles."},
)
def particle_picks(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """Where the particles of a micrograph are."""
    with dagster_failures(), cryoem.open() as sessions:
        made = sessions.pick(context.partition_key)
    checks = stage_checks("pick", made.result, cryoem.limits())
    return dg.MaterializeResult(
        metadata=shown(made), check_results=check_results(checks, "particle_picks")
    )


@_asset(movie_partitions, deps=[particle_picks, ctf_fits], kinds={"mrc", "star"})
def particles(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """The particles of a micrograph, cut out and normalised."""
    with dagster_failures(), cryoem.open() as sessions:
        made = sessions.extract(context.partition_key)
    return dg.MaterializeResult(metadata=shown(made))


@_asset(
    session_partitions,
    # Which movies are of the session stands in their keys and in its ledger.
    deps=[dg.AssetDep(particles, partition_mapping=dg.AllPartitionMapping())],
    kinds={"mrc", "star"},
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


@_asset(
    series_partitions,
    # Which movies are of the series stands in their names and in the ledger.
    deps=[dg.AssetDep(micrographs, partition_mapping=dg.AllPartitionMapping())],
    kinds={"mrc"},
    checks={"tilts_are_complete": "Nearly all tilts of the mdoc are there."},
)
def tilt_series(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """The micrographs of a tilt series in one stack, by rising angle."""
    with dagster_failures(), cryoem.open() as sessions:
        made = tomography.assemble(sessions, context.partition_key)
        expected = tomography.expected_tilts(sessions, context.partition_key)
    check = tilts_check(len(made.result.tilts_deg), expected, cryoem.limits())
    return dg.MaterializeResult(
        metadata=shown(made), check_results=check_results([check], "tilt_series")
    )


@_asset(
    series_partitions,
    deps=[tilt_series],
    kinds={"numba"},
    checks={
        "no_tilt_is_blank": "No tilt had to be left out as dark or blank.",
        "alignment_is_close": "What is left between a tilt and the others is small.",
        "ice_is_thin": "The sample is not thicker than the limit.",
    },
)
def alignments(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """Shifts of the tilts, the tilt axis, and the thickness of the ice."""
    with dagster_failures(), cryoem.open() as sessions:
        made = tomography.align(sessions, context.partition_key)
    checks = stage_checks("tilt-align", made.result, cryoem.limits())
    return dg.MaterializeResult(
        metadata=shown(made) | {"tilts": tilts_table(made.result.tilts)},
        check_results=check_results(checks, "alignments"),
    )


@_asset(series_partitions, deps=[tilt_series, alignments], kinds={"mrc", "numba"})
def tomograms(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """The volume of a tilt series, by weighted back-projection."""
    with dagster_failures(), cryoem.open() as sessions:
        made = tomography.reconstruct(sessions, context.partition_key)
    return dg.MaterializeResult(metadata=shown(made))


@_asset(series_partitions, deps=[tomograms], kinds={"mrc"})
def denoised(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """The tomogram with less noise: by total variation, or as the session has it."""
    with dagster_failures(), cryoem.open() as sessions:
        made = tomography.denoise(sessions, context.partition_key)
        drawn = tomography.draw_denoised(sessions, context.partition_key)
    label = "central slice"
    return dg.MaterializeResult(metadata=shown(made) | {label: _picture(drawn, label)})


@_asset(
    series_partitions, deps=[tilt_series, alignments, denoised], kinds={"jpeg", "png"}
)
def thumbnails(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> dg.MaterializeResult:
    """Pictures of a tomogram and of its alignment."""
    with dagster_failures(), cryoem.open() as sessions:
        drawn = tomography.draw(sessions, context.partition_key)
    stills = {k: v for k, v in drawn.items() if v.suffix in _STILLS}
    return dg.MaterializeResult(
        metadata={
            **{label: _picture(path, label) for label, path in stills.items()},
            **{f"{label}, file": place(str(path)) for label, path in drawn.items()},
        }
    )


def _comparison(
    asset: dg.AssetsDefinition,
    checks: Mapping[str, str],
    *,
    of: dg.PartitionsDefinition,
    compare: Callable[[Sessions, str], list[Check]],
) -> dg.AssetChecksDefinition:
    """Checks of an asset of a simulated session; without a truth they are silent."""
    name = asset.key.to_user_string()

    @dg.multi_asset_check(
        name=f"{compare.__name__}_with_truth",
        description=f"Compares {name} of a simulated session with how it was made.",
        specs=check_specs(name, checks, of),
        can_subset=True,
        pool=CRYOEM,
    )
    def compare_with_truth(
        context: dg.AssetCheckExecutionContext, cryoem: CryoemSessions
    ) -> Iterator[dg.AssetCheckResult]:
        with dagster_failures(), cryoem.open() as sessions:
            found = compare(sessions, context.partition_key)
        yield from check_results(found, name)

    return compare_with_truth


compare_motion = _comparison(
    micrographs,
    {"motion_matches_truth": "The frames moved as they were moved; of simulated ones."},
    of=movie_partitions,
    compare=comparisons.compare_motion,
)
compare_defocus = _comparison(
    ctf_fits,
    {"defocus_matches_truth": "The defocus is the true one; of simulated movies."},
    of=movie_partitions,
    compare=comparisons.compare_defocus,
)
compare_picks = _comparison(
    particle_picks,
    {"picks_match_truth": "Just the particles were found; of simulated ones."},
    of=movie_partitions,
    compare=comparisons.compare_picks,
)
compare_classes = _comparison(
    classes,
    {
        "classes_match_truth": "A class is of one view; of simulated particles.",
        "averages_match_truth": "The averages show the views; of simulated particles.",
    },
    of=session_partitions,
    compare=comparisons.compare_classes,
)
compare_shifts = _comparison(
    alignments,
    {"shifts_match_truth": "The tilts lie where they are; of simulated ones."},
    of=series_partitions,
    compare=comparisons.compare_shifts,
)
compare_tomogram = _comparison(
    tomograms,
    {
        "tomogram_matches_truth": "The tomogram shows the true sample; of simulated "
        "ones."
    },
    of=series_partitions,
    compare=comparisons.compare_tomogram,
)


def shown(made: StageOutput) -> Metadata:
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
