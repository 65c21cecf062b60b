"""Rows of ISPyB, as messages ask for them."""

from em_platform.cryoem.ispyb import run_command
from em_platform.cryoem.services.step import Place, Step


def handle(step: Step, place: Place) -> None:
    """Run the command of a message, and let the steps after it know the row's id."""
    known = step.parameters
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
