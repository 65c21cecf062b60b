"""What Dagster holds, as Markdown; `em-platform docs` runs this in its own process.

The command line imports no Dagster, so this stands above both and prints its page.
"""

from collections.abc import Iterator

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph  # not public

from em_platform.definitions import defs

_GENERATED = "<!-- Written by `em-platform docs`; do not edit. -->"


def page() -> str:
    """The text of `docs/reference/assets.md`."""
    lines = ["# Assets, checks, jobs, sensors, schedules", "", _GENERATED, ""]
    for lines_of in (_assets, _jobs, _sensors, _schedules):
        lines += lines_of()
    return "\n".join(lines).rstrip() + "\n"


def _assets() -> Iterator[str]:
    graph = defs.resolve_asset_graph()
    groups = sorted(
        {graph.get(key).group_name or "" for key in graph.get_all_asset_keys()}
    )
    for group in groups:
        yield from (f"## Group `{group}`", "")
        for key in graph.toposorted_asset_keys:
            if graph.get(key).group_name == group:
                yield from _asset(graph, key)


def _asset(graph: AssetGraph, key: dg.AssetKey) -> Iterator[str]:
    node = graph.get(key)
    yield from (f"### `{key.to_user_string()}`", "", _one_line(node.description), "")
    partitions = node.partitions_def
    if isinstance(partitions, dg.DynamicPartitionsDefinition):
        yield f"- partitions: `{partitions.name}` (dynamic)"
    elif partitions is not None:
        yield f"- partitions: {partitions}"
    else:
        yield "- partitions: none"
    parents = sorted(parent.to_user_string() for parent in node.parent_keys)
    yield f"- made from: {', '.join(f'`{p}`' for p in parents) or 'nothing in Dagster'}"
    for check_key in sorted(node.check_keys, key=lambda check: check.name):
        spec = graph.get_check_spec(check_key)
        blocking = " (blocks what is made from it)" if spec.blocking else ""
        yield f"- check `{check_key.name}`: {_one_line(spec.description)}{blocking}"
    yield ""


def _jobs() -> Iterator[str]:
    yield from ("## Jobs", "")
    for job in sorted(defs.resolve_all_job_defs(), key=lambda job: job.name):
        # Jobs that Dagster makes for itself, such as `__ASSET_JOB`.
        if not job.name.startswith("__"):
            keys = job.asset_layer.executable_asset_keys
            made = ", ".join(f"`{n}`" for n in sorted(k.to_user_string() for k in keys))
            about = _one_line(job.description)
            yield f"- `{job.name}`: {about} Makes {made or 'no asset'}."
    yield ""


def _sensors() -> Iterator[str]:
    yield from ("## Sensors", "")
    for sensor in sorted(defs.sensors or (), key=lambda sensor: sensor.name):
        every = f"looks every {sensor.minimum_interval_seconds} s"
        state = sensor.default_status.value.lower()
        yield f"- `{sensor.name}`: {_one_line(sensor.description)} ({every}; {state})"
    yield ""


def _schedules() -> Iterator[str]:
    yield from ("## Schedules", "")
    for schedule in sorted(defs.schedules or (), key=lambda schedule: schedule.name):
        when = f"`{getattr(schedule, 'cron_schedule', 'by partitions')}`"
        yield f"- `{schedule.name}` ({when}): {_one_line(schedule.description)}"
    yield ""


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())


if __name__ == "__main__":
    print(page(), end="")
