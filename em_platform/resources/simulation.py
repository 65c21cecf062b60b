"""Simulated tilt series, as assets and sensors see them."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from em_platform.resources.dask import DaskResource
from em_platform.resources.storage import Configuration

if TYPE_CHECKING:
    from em_platform.simulation.tilt_series.backends.backend import Backend
    from em_platform.simulation.tilt_series.plan import Plan

_LINE_S = 10.0  # so often the log says how far a stack is
_KEPT = 2
"""Float32 images of a tilt: with noise and without."""


class Simulations(dg.ConfigurableResource[Any]):
    """Where plans and stacks lie, and who makes the images."""

    configuration: Configuration

    @property
    def plans(self) -> Path:
        """The folder of the plans."""
        return self.configuration.settings().plans_folder

    @property
    def folder(self) -> Path:
        """The folder in which each stack has its own."""
        return self.configuration.settings().simulations_folder

    def stacks(self) -> tuple[dict[str, str], list[str]]:
        """Each planned stack with a mark of its plan; sentences on broken plans."""
        from em_platform.simulation.tilt_series.planned import plan_files

        found: dict[str, str] = {}
        problems = []
        for each in plan_files(self.plans):
            found |= each.stacks
            problems += [each.problem] if each.problem else []
        return found, problems

    def backend(self, plan: "Plan", compute: DaskResource) -> "Backend":
        """What the settings name; its tilts are made on Dask's workers where it pays.

        Raises
        ------
        ToolMissing
            The outside program is not there.
        """
        # Loaded by the step: it compiles kernels.
        from em_platform.simulation.tilt_series.backends import backend_of

        settings = self.configuration.settings()
        own, camera = settings.tilt_series, plan.camera
        pixels = plan.tilts.tilts * camera.height_px * camera.width_px * _KEPT
        return backend_of(
            own.backend,
            workers=settings.dask.workers,
            run=compute.map(pixels),
            program=own.tem_simulator,
            timeout_s=own.tem_simulator_timeout_s,
        )


class LoggedTilts:
    """How far a stack is, as lines in the log of a run, one each 10 seconds."""

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self._log = log
        self._next_s = time.monotonic() + _LINE_S

    def __call__(self, name: str, done: int, total: int, /) -> None:
        """So many tilts are done."""
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _LINE_S
            self._log.info("%s: %d of %d tilts", name, done, total)
