"""The tables of TEM DB."""

from em_platform.temdb.tables.columns import Base, Moment, in_utc, now, uuid7
from em_platform.temdb.tables.imaging import (
    Acquisition,
    Dataset,
    LensCorrection,
    Microscope,
    Task,
    Tile,
)
from em_platform.temdb.tables.preparation import (
    Block,
    CuttingSession,
    Roi,
    Section,
    Specimen,
    Substrate,
)

__all__ = [
    "Acquisition",
    "Base",
    "Block",
    "CuttingSession",
    "Dataset",
    "LensCorrection",
    "Microscope",
    "Moment",
    "Roi",
    "Section",
    "Specimen",
    "Substrate",
    "Task",
    "Tile",
    "in_utc",
    "now",
    "uuid7",
]
