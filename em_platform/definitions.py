"""Everything that Dagster runs: the one `Definitions` of the platform."""

# ruff: noqa: E402

import gc

# Of what is loaded nothing goes again: to look for garbage in between takes a fifth of
# the time, at the start of each run.
_COLLECTS = gc.isenabled()
gc.disable()

import warnings
from typing import Any

import dagster as dg

from em_platform.assets import (
    acquisition,
    catalog,
    cryoem,
    cryoem_records,
    ingest,
    simulation,
    stitching,
    transfer,
)
from em_platform.jobs import ALL_JOBS
from em_platform.resources.acquisition import Microscope, TemdbResource
from em_platform.resources.cryoem import CryoemSessions
from em_platform.resources.dask import DaskResource
from em_platform.resources.ingest import PublicSources
from em_platform.resources.simulation import Simulations
from em_platform.resources.storage import Configuration, Storage
from em_platform.schedules import (
    consolidate_catalog_schedule,
    hourly_stitch_montages,
    ingest_schedules,
)
from em_platform.sensors.acquisition import (
    inbox_sensor,
    lens_montage_sensor,
    montage_complete_sensor,
)
from em_platform.sensors.alerts import alert_sensor
from em_platform.sensors.catalog import catalog_sensor
from em_platform.sensors.cryoem import cryoem_session_sensor
from em_platform.sensors.history import history_sensor
from em_platform.sensors.ingest import discovery_sensor, heavy_ingest_sensor
from em_platform.sensors.killed import killed_runs_sensor
from em_platform.sensors.simulation import simulation_plan_sensor
from em_platform.sensors.transfer import upload_complete_sensor

# A run may lay its own settings on top; all other resources then see them too.
_configuration = Configuration.configure_at_launch()


def _with_code(*assets: Any) -> list[Any]:
    """The assets, whose pages then name the file and line that make each."""
    with warnings.catch_warnings():
        # The version is pinned; tests/orchestration/test_code_version.py notices.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return list(dg.with_source_code_references(assets))


defs = dg.Definitions(
    assets=_with_code(
        *dg.load_assets_from_modules(
            [
                acquisition,
                stitching,
                catalog,
                transfer,
                simulation,
                cryoem,
                cryoem_records,
            ]
        ),
        # A spec without code of its own, which the loader above passes over.
        transfer.temdb_tasks,
        *ingest.ingest_assets,
    ),
    asset_checks=dg.load_asset_checks_from_modules([stitching, cryoem]),
    jobs=[*ALL_JOBS, transfer.image_again_job],
    schedules=[
        hourly_stitch_montages,
        consolidate_catalog_schedule,
        *ingest_schedules,
    ],
    sensors=[
        montage_complete_sensor,
        inbox_sensor,
        lens_montage_sensor,
        upload_complete_sensor,
        killed_runs_sensor,
        alert_sensor,
        discovery_sensor,
        heavy_ingest_sensor,
        catalog_sensor,
        history_sensor,
        cryoem_session_sensor,
        simulation_plan_sensor,
    ],
    # Also of runs that an asset's page launches, which belong to no job of ours.
    executor=dg.in_process_executor,
    resources={
        "configuration": _configuration,
        "microscope": Microscope(configuration=_configuration),
        "sources": PublicSources(configuration=_configuration),
        "simulations": Simulations(configuration=_configuration),
        "storage": Storage(configuration=_configuration),
        "temdb": TemdbResource(configuration=_configuration),
        "cryoem": CryoemSessions(configuration=_configuration),
        "compute": DaskResource(configuration=_configuration),
    },
)

if _COLLECTS:
    gc.enable()
