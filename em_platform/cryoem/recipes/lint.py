"""What is wrong with a recipe, beyond what `workflows` finds.

`services.json` has what the services of cryoem-services are called, where they listen,
what they send and which parameters they know: those of today (1.5.0, 2026-08) and, for
the names that were changed since, of 2023-12.
"""

import difflib
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from em_platform.cryoem.ispyb import COMMANDS
from em_platform.cryoem.recipes.read import (
    RecipeContent,
    RecipeStep,
    links_of,
    placeholders_of,
    steps_of,
)
from em_platform.model import Model

# Names in recipes for services that have another name today, or none of their own.
_OTHER_NAMES = {
    "ISPyB connector": "EMISPyB",
    "Dispatcher": "ProcessRecipe",
    "Class2DWrapper": "Class2D",
    "Class3DWrapper": "Class3D",
    "RefineWrapper": "Refine3D",
    "CLEM-ALIGN-AND-MERGE": "CLEMAlignAndMerge",
    "CLEM-PROCESS-LIFS": "CLEMProcessRawLIFs",
    "CLEM-PROCESS-TIFFS": "CLEMProcessRawTIFFs",
}
# The receiver is the instrument's own program: its queue has any name.
_OUTSIDE = {"Murfey", "SmartEM"}
_CLUSTER = "cluster.submission"
_WRAPPERS = (
    *("CLEMAlignAndMerge", "CLEMProcessRawLIFs", "CLEMProcessRawTIFFs"),
    *("Class2D", "Class3D", "Refine3D"),
)
# Every service passes over these.
_ANYWHERE = {
    "engine",
    "time_limit_s",
    "denoise_method",
    "spher_aber",
    "ampl_contrast",
    "app_id",
    "program_id",
    "session_id",
    "dcid",
    "image_number",
    "movie_id",
}


class Problem(Model):
    """One thing that is wrong; an error keeps messages from what they are for."""

    step: int | None
    severity: Literal["error", "warning"]
    text: str

    def __str__(self) -> str:
        """One line."""
        place = "recipe" if self.step is None else f"step {self.step}"
        return f"{self.severity}: {place}: {self.text}"


class KnownService(Model):
    """Where a service listens, what it sends, and the parameters that it knows."""

    queue: str
    queues: tuple[str, ...] = ()
    """Where else."""
    channels: tuple[str, ...]
    parameters: tuple[str, ...]


@cache
def known_services() -> dict[str, KnownService]:
    """All that `services.json` has, by their names."""
    content = (Path(__file__).parent / "services.json").read_bytes()
    return TypeAdapter(dict[str, KnownService]).validate_json(content)


def lint_recipe(
    recipe: RecipeContent, parameters: Collection[str] | None = None
) -> list[Problem]:
    """All that is wrong with a valid recipe, in the order of its steps.

    Parameters
    ----------
    parameters
        Names of those that it is going to be filled in with, where they are known: then
        a name in braces that is not among them is a warning.
    """
    found: list[Problem] = []
    for number, step in steps_of(recipe):
        for severity, text in _of_step(recipe, step):
            found.append(Problem(step=number, severity=severity, text=text))
        if parameters is None:
            continue
        for name in sorted(placeholders_of(step).difference(parameters)):
            text = f"{{{name}}} is not among the parameters and would stay as it is"
            found.append(Problem(step=number, severity="warning", text=text))
    return found


_Found = Iterator[tuple[Literal["error", "warning"], str]]


def _of_step(recipe: RecipeContent, step: RecipeStep) -> _Found:
    name = str(step.get("service", ""))
    if name in _OUTSIDE:
        return
    known = known_services()
    service = known.get(_OTHER_NAMES.get(name, name))
    if service is None:
        near = difflib.get_close_matches(name, [*known, *_OTHER_NAMES], 1)
        guess = f"; is {near[0]} meant?" if near else ""
        yield "error", f"no service is called {name!r}{guess}"
        return
    yield from _of_queue(step, name, service)
    yield from _of_parameters(step, name, service)
    for channel, to in links_of(step):
        if channel and channel not in service.channels:
            yield "warning", f"{name} never sends to {channel!r}: nothing comes of it"
        yield from _of_link(channel, to, recipe[to])


def _of_queue(step: RecipeStep, name: str, service: KnownService) -> _Found:
    queue = step.get("queue")
    if not queue and not step.get("topic"):
        yield "error", f"{name} has no queue, {service.queue!r} was expected"
    elif queue == _CLUSTER:
        cluster = (step.get("parameters") or {}).get("cluster")
        if not cluster:
            wrong = f"goes to {_CLUSTER} without a cluster block; no job can be made"
            yield "error", f"{name} {wrong}"
        else:
            yield from _of_cluster(cluster)
    elif queue and not placeholders_of(queue):
        if queue not in (service.queue, *service.queues):
            listens = f"{name} listens at {service.queue!r}"
            yield "error", f"the queue is {queue!r}, but {listens}"


def _of_cluster(cluster: Any) -> _Found:
    commands = cluster.get("commands", ()) if isinstance(cluster, dict) else ()
    for command in commands:
        words = str(command).split()
        if "-w" in words[:-1]:
            wrapper = words[words.index("-w") + 1]
            if wrapper not in _WRAPPERS:
                near = difflib.get_close_matches(wrapper, _WRAPPERS, 1, 0.3)
                guess = f"; is {near[0]} meant?" if near else ""
                yield "error", f"no wrapper is called {wrapper!r}{guess}"


def _of_parameters(step: RecipeStep, name: str, service: KnownService) -> _Found:
    given = step.get("parameters") or {}
    command = given.get("ispyb_command")
    if "ispyb_connector" == service.queue:
        # Which parameters count depends on the command, and most come by message.
        if command and not placeholders_of(command) and str(command) not in COMMANDS:
            near = difflib.get_close_matches(str(command), COMMANDS, 1)
            guess = f"; is {near[0]} meant?" if near else ""
            yield "error", f"no ISPyB command is called {command!r}{guess}"
        return
    if step.get("queue") == _CLUSTER:
        given = step.get("job_parameters") or {}
    for parameter in given:
        if parameter not in service.parameters and parameter not in _ANYWHERE:
            near = difflib.get_close_matches(parameter, service.parameters, 1, 0.7)
            guess = f"; is {near[0]} meant?" if near else ""
            yield "warning", f"{name} knows no parameter {parameter!r}{guess}"


def _of_link(channel: str, to: int, target: RecipeStep) -> _Found:
    """A channel with the name of a service's queue has to lead there."""
    receivers = {
        name for name, each in known_services().items() if each.queue == channel
    }
    name = str(target.get("service", ""))
    if receivers and _OTHER_NAMES.get(name, name) not in receivers | _OUTSIDE:
        wanted = " or ".join(sorted(receivers))
        yield "error", f"{channel!r} leads to step {to}, {name}, not to {wanted}"
