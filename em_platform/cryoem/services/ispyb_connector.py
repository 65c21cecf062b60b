"""Rows of ISPyB, as messages ask for them.

A recipe that was started without its data collection runs without ISPyB: its steps
here hand on what they would, and write nothing.
"""

import logging

from em_platform.cryoem.ispyb import run_command
from em_platform.cryoem.recipes.read import is_placeholder
from em_platform.cryoem.services.step import ServiceContext, Step

log = logging.getLogger(__name__)

_WITHOUT = "without_ispyb"
"""In the environment: what the first step found, for those that name no collection."""


def handle(step: Step, place: ServiceContext) -> None:
    """Run the command of a message, and let the steps after it know the row's id."""
    known = step.parameters
    if step.environment.get(_WITHOUT) or _is_unregistered(step):
        command = step.parameters.get("ispyb_command")
        log.info("ISPyB: the recipe has no dcid; %s is left out", command)
        step.environment[_WITHOUT] = True
        step.send("output", {"result": None})
        return
    with place.ispyb.write() as writer:
        outcome = run_command(
            writer,
            # Without what nobody filled in: it would be text in a column of numbers.
            {k: v for k, v in step.message.items() if k in known},
            parameters={k: v for k, v in step.recipe_parameters.items() if k in known},
            environment=step.environment,
        )
    step.environment.update(outcome.stored)
    step.send("output", {"result": outcome.result})


def _is_unregistered(step: Step) -> bool:
    named = step.recipe_parameters.get("dcid")
    return is_placeholder(named) and "dcid" not in step.parameters
