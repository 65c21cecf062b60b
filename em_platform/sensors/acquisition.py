"""A montage that is whole -> its partition and one run."""

import json
import time
from collections.abc import Mapping
from dataclasses import astuple, fields

import dagster as dg

from em_platform.acquisition.montages.inbox import FolderState
from em_platform.ingest.plan import PART, PRIORITY
from em_platform.jobs import calibrate_lens, lens_config, stitch_montages
from em_platform.partitions import (
    BACKLOG,
    LIVE,
    MONTAGE,
    lens_key,
    lenses,
    montages,
)
from em_platform.resources.acquisition import Microscope

# What was recorded longer ago is backlog: the platform was down.
_LIVE_S = 1800.0
_WAITS = {PART: MONTAGE, PRIORITY: str(BACKLOG)}
# Runs of one tick, which must be short; the others come at the next.
_MOST_A_TICK = 50
# Dagster ends a tick after 60 s.
_TICK_S = 10.0


@dg.sensor(
    job=stitch_montages,
    minimum_interval_seconds=2,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts one run for each montage that the microscope has completed.",
)
def montage_complete_sensor(
    context: dg.SensorEvaluationContext, microscope: Microscope
) -> dg.SensorResult | dg.SkipReason:
    """Starts one run for each montage that the microscope has completed.

    The cursor is the number of the last recorded event that was looked at.
    """
    after = int(context.cursor or 0)
    with microscope.recorder() as recorder:
        found = recorder.montages(after, limit=_MOST_A_TICK)
        old = recorder.last_before(time.time() - _LIVE_S)
    if not found:
        return dg.SkipReason(f"no montage was completed since event {after}")
    tags = {key: _WAITS if seq <= old else {PART: LIVE} for seq, key in found}
    return _request(tags, cursor=str(found[-1][0]))


@dg.sensor(
    job=stitch_montages,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts one run for each folder of tiles that was "
    "dropped into the inbox, and again when it was corrected.",
)
def inbox_sensor(
    context: dg.SensorEvaluationContext, microscope: Microscope
) -> dg.SensorResult:
    """Starts one run for each folder of tiles that was dropped into the inbox.

    The cursor holds a mark of each folder's content, by which one that was corrected is
    taken again; it shrinks when folders are taken away.
    """
    inbox = microscope.inbox()
    seen, arrived = inbox.look(
        _seen(context.cursor), time.time(), most=_MOST_A_TICK, within_s=_TICK_S
    )
    # Also where nothing arrived: what was looked at is not looked at again.
    cursor = json.dumps({key: astuple(each) for key, each in seen.items()})
    if not arrived:
        nothing = f"no new folder that is whole in {inbox.folder}"
        left = sorted(key for key, each in seen.items() if each.left_alone)
        if left:
            nothing += (
                f"; left alone: {', '.join(left[:5])} ({len(left)}), expected a list "
                "of tiles (CSV, JSON, mdoc) or names with row and column that fill a "
                "grid; add one"
            )
        return dg.SensorResult(skip_reason=nothing, cursor=cursor)
    run_keys = {key: f"{key} {seen[key].run_key}" for key in arrived}
    return _request(dict.fromkeys(arrived, _WAITS), cursor=cursor, run_keys=run_keys)


def _seen(cursor: str | None) -> dict[str, FolderState]:
    found = json.loads(cursor or "{}")
    names = [field.name for field in fields(FolderState)]
    return {
        key: FolderState(**dict(zip(names, values, strict=True)))
        for key, values in found.items()
    }


@dg.sensor(
    job=calibrate_lens,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Calibrates the lens from each montage that was imaged to show it.",
)
def lens_montage_sensor(
    context: dg.SensorEvaluationContext, microscope: Microscope
) -> dg.SensorResult | dg.SkipReason:
    """Calibrates the lens from each montage that was imaged to show it.

    The cursor is the number of the last completion that was looked at.
    """
    after = int(context.cursor or 0)
    with microscope.recorder() as recorder:
        found = recorder.montages(after, limit=_MOST_A_TICK)
        shown = {key: recorder.lens_shown(key) for _, key in found}
    if not found:
        return dg.SkipReason(f"no montage was completed since event {after}")
    key_of = {key: lens_key(*lens) for key, lens in shown.items() if lens is not None}
    new = sorted(set(key_of.values()))
    return dg.SensorResult(
        dynamic_partitions_requests=[lenses.build_add_request(new)] if new else [],
        run_requests=[
            dg.RunRequest(run_key=key, partition_key=lens, run_config=lens_config(key))
            for key, lens in key_of.items()
        ],
        cursor=str(found[-1][0]),
    )


def _request(
    tags: Mapping[str, Mapping[str, str]],
    *,
    cursor: str,
    run_keys: Mapping[str, str] | None = None,
) -> dg.SensorResult:
    """A partition and a run for each montage, the run with its tags."""
    return dg.SensorResult(
        dynamic_partitions_requests=[montages.build_add_request(list(tags))],
        # The key of a run is its montage: Dagster starts none twice.
        run_requests=[
            dg.RunRequest(
                run_key=(run_keys or {}).get(key, key),
                partition_key=key,
                tags=dict(own),
            )
            for key, own in tags.items()
        ],
        cursor=cursor,
    )
