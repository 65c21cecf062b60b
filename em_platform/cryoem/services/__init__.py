"""Services: what a message to a queue makes happen, live and in one process alike.

A service is one module with `handle(step, place)`; `step.py` has the two. It is loaded
only when a message comes for it.
"""

import importlib
from typing import Any

from em_platform.cryoem.services.step import Handler

SERVICES: dict[str, str] = {
    "AreTomoAlign": "tomo_align",
    "CTFFind": "ctffind",
    "Class2D": "class2d",
    "CrYOLO": "cryolo",
    "Denoise": "denoise",
    "EMISPyB": "ispyb_connector",
    "Extract": "extract",
    "Images": "images",
    "MotionCorr": "motioncorr",
    "NodeCreator": "node_creator",
    "ProcessRecipe": "processing_recipe",
    "SelectParticles": "select_particles",
}
"""Service -> the queue at which it listens, both as cryoem-services has them."""

OTHER_NAMES = {
    "Dispatcher": "ProcessRecipe",
    "ISPyB connector": "EMISPyB",
    "TomoAlign": "AreTomoAlign",
}
"""Names in older recipes -> service."""

# Modules have the names of queues, but for the one whose queue is what it takes.
_MODULES = {"ProcessRecipe": "process_recipe"}


def load_service(name: str) -> Handler:
    """What the service of that name does with a message."""
    module: Any = importlib.import_module(
        f"{__name__}.{_MODULES.get(name, SERVICES[name])}"
    )
    handler: Handler = module.handle
    return handler
