"""Pictures of micrographs, volumes and picks, as messages ask for them."""

from em_platform.cryoem.services.step import ServiceContext, Step
from em_platform.cryoem.stages import thumbnail
from em_platform.storage.atomic import remove_leftovers


def handle(step: Step, _: ServiceContext) -> None:
    """Make the pictures of one command beside the file that they show."""
    parameters = step.validated(thumbnail.Parameters)
    folder = parameters.input().parent
    if step.is_repeat:
        remove_leftovers(folder)
    thumbnail.run(parameters, folder)
