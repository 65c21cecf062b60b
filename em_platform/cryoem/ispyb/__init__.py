"""ISPyB: what was found in movies, tomograms and classes, as its rows."""

from em_platform.cryoem.ispyb.commands import COMMANDS, run_command
from em_platform.cryoem.ispyb.database import Ispyb, open_ispyb
from em_platform.cryoem.ispyb.lookup import Outcome
from em_platform.cryoem.ispyb.parents import Parents, register_collection

__all__ = [
    "COMMANDS",
    "Ispyb",
    "Outcome",
    "Parents",
    "open_ispyb",
    "register_collection",
    "run_command",
]
