"""Pictures of micrographs, volumes and picks, as messages ask for them."""

from em_platform.cryoem.services.step import Place, Step
from em_platform.cryoem.stages import thumbnail


def handle(step: Step, _: Place) -> None:
    """Make the pictures of one command beside the file that they show."""
    parameters = step.validated(thumbnail.Parameters)
    thumbnail.run(parameters, parameters.input().parent)
