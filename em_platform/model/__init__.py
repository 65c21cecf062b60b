"""The words: frozen types that cross a wire or a file."""

from em_platform.model.base import Box, Json, JsonObject, Model, Shift, Size
from em_platform.model.check import (
    Check,
    Review,
    ReviewStatus,
    Severity,
    failed_errors,
    review_of,
)
from em_platform.model.montage import (
    Failure,
    LensModel,
    Montage,
    MontageFit,
    PlannedTile,
    TilePlacement,
)
from em_platform.model.tile import Tile, TileMatch, TileStats
from em_platform.model.upload import (
    AcquisitionUpload,
    MeasuredTile,
    NeighbourMatch,
    StoredTile,
    TilePart,
    UploadedTile,
    UsedInstrument,
)

__all__ = [
    "AcquisitionUpload",
    "Box",
    "Check",
    "Failure",
    "Json",
    "JsonObject",
    "LensModel",
    "MeasuredTile",
    "Model",
    "Montage",
    "MontageFit",
    "NeighbourMatch",
    "PlannedTile",
    "Review",
    "ReviewStatus",
    "Severity",
    "Shift",
    "Size",
    "StoredTile",
    "Tile",
    "TileMatch",
    "TilePart",
    "TilePlacement",
    "TileStats",
    "UploadedTile",
    "UsedInstrument",
    "failed_errors",
    "review_of",
]
