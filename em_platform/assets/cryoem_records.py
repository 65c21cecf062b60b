"""What was found in movies, tilt series and sessions, in ISPyB and RELION's project."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from em_platform.assets.checks import dagster_failures
from em_platform.assets.cryoem import classes, ctf_fits, denoised, particles
from em_platform.assets.metadata import place, table
from em_platform.partitions import CRYOEM
from em_platform.partitions import movies as movie_partitions
from em_platform.partitions import sessions as session_partitions
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


def _records(
    name: str,
    *,
    of: str,
    deps: list[dg.AssetsDefinition],
    assets: tuple[str, str],
    partitions_def: dg.PartitionsDefinition,
) -> dg.AssetsDefinition:
    """A step that writes both by the function of its name in `sessions.records`."""

    @dg.multi_asset(
        name=name,
        specs=_specs(*assets, of=of, deps=deps),
        partitions_def=partitions_def,
        pool=CRYOEM,
    )
    def record(
        context: dg.AssetExecutionContext, cryoem: CryoemSessions
    ) -> Iterator[dg.MaterializeResult]:
        from em_platform.cryoem.sessions import records

        write = getattr(records, name)
        with dagster_failures(), cryoem.open() as sessions, cryoem.services() as own:
            made = write(sessions, context.partition_key, own)
        yield from _results(*assets, made)

    return record


movie_records = _records(
    "record_movie",
    of="a movie",
    # Of a tilt there are no particles, and its records do not wait for them.
    deps=[ctf_fits, particles],
    assets=("ispyb_rows", "relion_project"),
    partitions_def=movie_partitions,
)
class_records = _records(
    "record_classes",
    of="a session's classes",
    deps=[classes],
    assets=("ispyb_classes", "relion_classes"),
    partitions_def=session_partitions,
)
tilt_series_records = _records(
    "record_tilt_series",
    of="a tilt series",
    deps=[denoised],
    assets=("ispyb_tomograms", "relion_tomograms"),
    partitions_def=series_partitions,
)


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
