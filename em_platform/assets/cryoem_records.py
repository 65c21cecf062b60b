"""What was found in movies and tilt series, in ISPyB and in a project of RELION."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from em_platform.assets.checks import dagster_failures
from em_platform.assets.cryoem import ctf_fits, denoised, particle_picks
from em_platform.assets.metadata import place, table
from em_platform.partitions import CRYOEM
from em_platform.partitions import movies as movie_partitions
from em_platform.partitions import tilt_series as series_partitions
from em_platform.resources.cryoem import CryoemSessions

if TYPE_CHECKING:
    from em_platform.cryoem.sessions.records import Recorded

_OWNERS = ["team:image-processing"]


def _specs(
    rows: str, project: str, *, of: str, deps: list[dg.AssetsDefinition]
) -> list[dg.AssetSpec]:
    """The rows and the jobs of one movie or tilt series, which one step writes."""
    return [
        dg.AssetSpec(
            rows,
            group_name="cryoem",
            deps=deps,
            kinds={"sqlite"},
            owners=_OWNERS,
            description=f"Rows of {of} in ISPyB, as live services write them.",
        ),
        dg.AssetSpec(
            project,
            group_name="cryoem",
            deps=deps,
            kinds={"star"},
            owners=_OWNERS,
            description=f"Jobs of {of} in its session's project, which RELION and "
            "doppio open.",
        ),
    ]


@dg.multi_asset(
    name="record_movie",
    specs=_specs(
        "ispyb_rows", "relion_project", of="a movie", deps=[ctf_fits, particle_picks]
    ),
    partitions_def=movie_partitions,
    pool=CRYOEM,
)
def movie_records(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> Iterator[dg.MaterializeResult]:
    """Motion, CTF and picks of a movie, in ISPyB and in the session's project."""
    from em_platform.cryoem.sessions.records import record_movie

    with dagster_failures(), cryoem.open() as sessions, cryoem.services() as services:
        made = record_movie(sessions, context.partition_key, services)
    yield from _results("ispyb_rows", "relion_project", made)


@dg.multi_asset(
    name="record_tilt_series",
    specs=_specs(
        "ispyb_tomograms", "relion_tomograms", of="a tilt series", deps=[denoised]
    ),
    partitions_def=series_partitions,
    pool=CRYOEM,
)
def tilt_series_records(
    context: dg.AssetExecutionContext, cryoem: CryoemSessions
) -> Iterator[dg.MaterializeResult]:
    """Alignment and tomograms of a tilt series, in ISPyB and in the project."""
    from em_platform.cryoem.sessions.records import record_tilt_series

    with dagster_failures(), cryoem.open() as sessions, cryoem.services() as services:
        made = record_tilt_series(sessions, context.partition_key, services)
    yield from _results("ispyb_tomograms", "relion_tomograms", made)


def _results(
    rows: str, project: str, made: "Recorded"
) -> Iterator[dg.MaterializeResult]:
    commands = table(("command", "rows"), list(made.rows.items()))
    yield dg.MaterializeResult(
        asset_key=rows, metadata={"rows": sum(made.rows.values()), "commands": commands}
    )
    yield dg.MaterializeResult(
        asset_key=project,
        metadata={"project": place(str(made.project)), "reports": made.reports},
    )
