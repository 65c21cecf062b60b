"""Dagster's containers of runs: what each may use, and who ends them.

Docker's socket makes whoever has it root of the computer, so the web server has none.
*Terminate* there marks a run; `python -m em_platform.resources.docker_launcher`, which
listens nowhere, ends the containers of the runs that are marked.
"""

import logging

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster_docker import DockerRunLauncher
from dagster_docker.container_context import DockerContainerContext
from docker.errors import DockerException  # type: ignore[import-not-found]

from em_platform.config import load_settings
from em_platform.ingest.plan import CPUS, MEMORY_MB
from em_platform.messaging.service import report_ready, stop_signals
from em_platform.processes.logs import setup_logging

log = logging.getLogger(__name__)

# Docker counts CPUs in billionths.
_NANO = 1_000_000_000
_LOOK_S = 2.0  # so soon a terminated run begins to end; a look is one query


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

    def terminate(self, run_id: str) -> bool:
        """End a run; without Docker's socket it is marked, and ended by who has it."""
        try:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        except DockerException as error:
            # It is CANCELING by now: `end_cancelled_runs` sees it.
            log.info("run %s is marked to be ended (%s)", run_id, str(error))
            return True

    def end(self, run: DagsterRun) -> None:
        """Stop the container of a run, and call the run cancelled if it could not.

        Raises
        ------
        DockerException
            Docker does not answer.
        """
        container = self._get_container(run)  # type: ignore[no-untyped-call]
        if container is not None:
            container.stop()
        now = self._instance.get_run_by_id(run.run_id)
        if now is not None and not now.is_finished:
            self._instance.report_run_canceled(now, message="Its container has ended.")


def end_cancelled_runs(instance: DagsterInstance) -> None:
    """End the containers of all runs that someone asked to end."""
    launcher = instance.run_launcher
    if not isinstance(launcher, LimitedDockerRunLauncher):
        raise TypeError(f"{launcher} was found, LimitedDockerRunLauncher was expected")
    marked = RunsFilter(statuses=[DagsterRunStatus.CANCELING])
    for run in instance.get_runs(filters=marked):
        try:
            launcher.end(run)
        except DockerException as error:
            log.warning("run %s cannot be ended yet: %s", run.run_id, str(error))


def main() -> None:
    """End the containers of terminated runs until SIGTERM."""
    setup_logging("terminator", load_settings())
    with stop_signals() as stop, DagsterInstance.get() as instance:
        report_ready("terminator")
        while not stop.wait(_LOOK_S):
            end_cancelled_runs(instance)


if __name__ == "__main__":
    main()
