"""Plans of simulated tilt series -> a partition and a run for each stack."""

import json

import dagster as dg

from em_platform.jobs import simulate_stacks
from em_platform.partitions import sim_stacks
from em_platform.resources.simulation import Simulations

# Stacks of one tick, which must be short; the others come at the next.
_MOST_A_TICK = 100


@dg.sensor(
    job=simulate_stacks,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts one run for each stack of each plan in the folder of plans, "
    "and again when a plan was changed.",
)
def simulation_plan_sensor(
    context: dg.SensorEvaluationContext, simulations: Simulations
) -> dg.SensorResult:
    """Starts one run for each stack of each plan in the folder of plans.

    The cursor says what was asked for; more stacks of a plan are asked for alone.
    """
    found, problems = simulations.stacks()
    asked: dict[str, str] = json.loads(context.cursor or "{}")
    new = [name for name, mark in found.items() if asked.get(name) != mark]
    new = new[:_MOST_A_TICK]
    known = {name: mark for name, mark in asked.items() if name in found}
    cursor = json.dumps(known | {name: found[name] for name in new})
    if not new:
        why = "; ".join(problems) or f"no new plan in {simulations.plans}"
        return dg.SensorResult(skip_reason=dg.SkipReason(why), cursor=cursor)
    return dg.SensorResult(
        dynamic_partitions_requests=[sim_stacks.build_add_request(new)],
        run_requests=[
            dg.RunRequest(run_key=f"{name} {found[name]}", partition_key=name)
            for name in new
        ],
        cursor=cursor,
    )
