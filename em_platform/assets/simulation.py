"""Simulated tilt series: plan -> particles -> sample -> images -> truth -> record."""

import dagster as dg

from em_platform.assets.checks import check_results, check_specs, dagster_failures
from em_platform.assets.metadata import Stopwatch, place, record_summary, step_of
from em_platform.assets.simulation_summaries import (
    library_summary,
    plan_summary,
    sample_summary,
    stack_summary,
    truth_summary,
)
from em_platform.jobs import CHIMERA_POOL, HEAVY_POOL, TILT_SERIES_POOL
from em_platform.partitions import sim_stacks
from em_platform.resources.dask import DaskResource
from em_platform.resources.simulation import LoggedTilts, Simulations
from em_platform.resources.storage import Configuration, Storage
from em_platform.storage import layout

_GROUP, _OWNERS = "simulation", ["team:image-processing"]

_STACK_CHECKS = {
    "stacks_are_valid": "Both stacks are valid MRC files with a section a tilt.",
    "counts_are_expected": "Mean counts are dose x pixel area x transmission, to 1 %.",
}
_TRUTH_CHECKS = {
    "thon_rings_match_truth": "The Thon rings tell the defocus that was set, to 2 %.",
    "images_match_truth": "The true poses, projected again, give the images.",
}


@dg.asset(
    group_name=_GROUP,
    partitions_def=sim_stacks,
    kinds={"yaml"},
    owners=_OWNERS,
)
def sim_config(
    context: dg.AssetExecutionContext, simulations: Simulations, storage: Storage
) -> dg.MaterializeResult:
    """The validated plan of one simulated tilt series, as it was when it was asked."""
    from em_platform.simulation.tilt_series import steps

    key = context.partition_key
    with dagster_failures():
        store = storage.writing(layout.simulation_folder(key))
        planned = steps.take_plan(key, simulations.plans, store)
    return dg.MaterializeResult(metadata=plan_summary(planned))


@dg.asset(
    group_name=_GROUP,
    partitions_def=sim_stacks,
    deps=[sim_config],
    kinds={"numpy"},
    owners=_OWNERS,
)
def sim_particle_library(
    context: dg.AssetExecutionContext, simulations: Simulations, storage: Storage
) -> dg.MaterializeResult:
    """The potentials of the plan's particles, each made once for all stacks."""
    from em_platform.simulation.tilt_series import steps

    key = context.partition_key
    with dagster_failures():
        store = storage.writing(layout.simulation_folder(key))
        maps = steps.take_library(key, simulations.folder, store)
    return dg.MaterializeResult(metadata=library_summary(maps, simulations.folder))


@dg.asset(
    group_name=_GROUP,
    partitions_def=sim_stacks,
    deps=[sim_particle_library],
    kinds={"numpy"},
    owners=_OWNERS,
    pool=CHIMERA_POOL,
)
def sim_sample(
    context: dg.AssetExecutionContext, simulations: Simulations, storage: Storage
) -> dg.MaterializeResult:
    """Where each particle and bead of one tilt series lies, and how it is turned."""
    from em_platform.simulation.tilt_series import steps

    key = context.partition_key
    with dagster_failures(), Stopwatch() as watch:
        store = storage.writing(layout.simulation_folder(key))
        planned, sample = steps.take_sample(key, simulations.folder, store)
        summary = sample_summary(planned, sample, store)
    return dg.MaterializeResult(
        metadata={**summary, "seconds": round(watch.seconds, 2)}
    )


@dg.asset(
    group_name=_GROUP,
    partitions_def=sim_stacks,
    deps=[sim_sample],
    kinds={"dask", "mrc"},
    owners=_OWNERS,
    pool=TILT_SERIES_POOL,
    check_specs=check_specs("sim_tilt_stack", _STACK_CHECKS, sim_stacks),
)
def sim_tilt_stack(
    context: dg.AssetExecutionContext,
    simulations: Simulations,
    storage: Storage,
    compute: DaskResource,
) -> dg.MaterializeResult:
    """The images of one tilt series, noisy and clean, with all their tables."""
    from em_platform.simulation.tilt_series import steps

    key = context.partition_key
    with dagster_failures(), Stopwatch() as watch:
        store = storage.writing(layout.simulation_folder(key))
        plan = steps.kept_plan(key, store).plan
        made, checks = steps.take_stack(
            key,
            simulations.folder,
            store,
            backend=simulations.backend(plan, compute),
            progress=LoggedTilts(context.log),
        )
        summary = stack_summary(made, store)
    return dg.MaterializeResult(
        metadata={**summary, "seconds": round(watch.seconds, 2)},
        check_results=check_results(checks, "sim_tilt_stack"),
    )


@dg.asset(
    group_name=_GROUP,
    partitions_def=sim_stacks,
    deps=[sim_tilt_stack],
    kinds={"json"},
    owners=_OWNERS,
    check_specs=check_specs("sim_ground_truth", _TRUTH_CHECKS, sim_stacks),
)
def sim_ground_truth(
    context: dg.AssetExecutionContext, simulations: Simulations, storage: Storage
) -> dg.MaterializeResult:
    """What is true of one tilt series: angles, shifts, doses, defocus, poses."""
    from em_platform.simulation.tilt_series import steps

    key = context.partition_key
    with dagster_failures():
        store = storage.writing(layout.simulation_folder(key))
        truth, checks = steps.judge_truth(key, simulations.folder, store)
        summary = truth_summary(truth, simulations.folder, store)
    return dg.MaterializeResult(
        metadata=summary, check_results=check_results(checks, "sim_ground_truth")
    )


@dg.asset(
    group_name=_GROUP,
    partitions_def=sim_stacks,
    deps=[sim_ground_truth],
    kinds={"star"},
    owners=_OWNERS,
)
def sim_exports(
    context: dg.AssetExecutionContext, simulations: Simulations
) -> dg.MaterializeResult:
    """One tilt series as projects of IMOD, RELION, Dynamo, EMAN2 and motl."""
    from em_platform.simulation.tilt_series import steps

    with dagster_failures():
        projects = steps.take_exports(context.partition_key, simulations.folder)
    return dg.MaterializeResult(
        metadata={kind: place(str(path)) for kind, path in projects.items()}
    )


@dg.asset(
    group_name=_GROUP,
    partitions_def=sim_stacks,
    deps=[sim_ground_truth],
    kinds={"json", "zarr"},
    owners=["team:data-management"],
    pool=HEAVY_POOL,
)
def sim_record(
    context: dg.AssetExecutionContext,
    configuration: Configuration,
    simulations: Simulations,
    storage: Storage,
) -> dg.MaterializeResult:
    """The images as an OME-Zarr that can be looked at, and the catalog's record."""
    from em_platform.simulation.tilt_series import steps

    key = context.partition_key
    with dagster_failures():
        store = storage.writing(layout.simulation_folder(key))
        made = steps.take_record(
            key,
            simulations.folder,
            store,
            settings=configuration.settings(),
            dagster=step_of(context),
        )
    url = store.url(layout.record(steps.SOURCE, key))
    return dg.MaterializeResult(metadata=record_summary(made.record, url))
