"""Dagster's containers of runs, each with the memory and CPUs that its run names."""

from dagster import DagsterRun
from dagster_docker import DockerRunLauncher
from dagster_docker.container_context import DockerContainerContext

from em_platform.ingest.plan import CPUS, MEMORY_MB

# Docker counts CPUs in billionths.
_NANO = 1_000_000_000


class LimitedDockerRunLauncher(DockerRunLauncher):
    """A run with the tags `em/memory_mb` and `em/cpus` may use no more than that.

    The jobs of the public sources have them, from `ingest.<source>.memory_limit_mb`
    and `.cpus`; a launch may bring its own.
    """

    def get_container_context(self, dagster_run: DagsterRun) -> DockerContainerContext:
        context = super().get_container_context(dagster_run)
        tags, limits = dagster_run.tags, dict(context.container_kwargs)
        if MEMORY_MB in tags:
            limits["mem_limit"] = f"{int(tags[MEMORY_MB])}m"
        if CPUS in tags:
            limits["nano_cpus"] = round(float(tags[CPUS]) * _NANO)
        return context._replace(container_kwargs=limits)
