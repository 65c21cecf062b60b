"""A microscope and a pipeline, as the buffer sees them: files first, then messages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from TEM_comms.montage import Complete
from TEM_comms.tile import Raw

from em_platform.formats import encode_tiff
from em_platform.storage.atomic import write_bytes

Publish = Callable[..., None]

SCOPE = {
    "focus": 1,
    "aperture": None,
    "mag_mode": "MAG",
    "mag": 2500,
    "tank_voltage": 120,
    "brightness": 1300,
    "beam_offset": (0, 0),
    "spot_size": 3,
    "screen": None,
}


def publish_nothing(topic: str, **fields: Any) -> None:
    """Publish to nobody."""


class ImagedMontage:
    """One montage of a single row; each frame is other noise."""

    def __init__(
        self, frames: Path, montage_id: str, *, tiles: int = 4, size_px: int = 96
    ) -> None:
        self.frames = frames
        self.montage_id = montage_id
        self.acquisition_id = f"{montage_id}-20260102t030405"
        self.tile_ids = [f"{self.acquisition_id}_000_{i:03d}" for i in range(tiles)]
        self.size_px = size_px
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def folder(self) -> Path:
        """Of the frames."""
        return self.frames / self.montage_id

    def path(self, tile_id: str) -> Path:
        """Of one frame."""
        return self.folder / f"{tile_id}.tiff"

    def pixels(self, tile_id: str) -> np.ndarray:
        """What the camera saw, the same each time."""
        seed = [ord(letter) for letter in tile_id]
        shape = (self.size_px, self.size_px)
        return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)

    def fields(self, tile_id: str) -> dict[str, Any]:
        """What all messages of a tile share."""
        column = self.tile_ids.index(tile_id)
        return {
            "tile_id": tile_id,
            "montage_id": self.montage_id,
            "row": 0,
            "column": column,
            "overlap": 8,
            "stage_position": (column * 4000, 0),
        }

    def image(self, publish: Publish = publish_nothing) -> None:
        """Save and say all frames."""
        for tile_id in self.tile_ids:
            self.image_tile(tile_id, publish)

    def image_tile(self, tile_id: str, publish: Publish = publish_nothing) -> None:
        """Save and say one frame."""
        path = self.path(tile_id)
        write_bytes(path, encode_tiff(self.pixels(tile_id)))
        raw = Raw(**self.fields(tile_id), path=str(path))
        write_bytes(path.with_suffix(".json"), raw.model_dump_json().encode())
        publish("tile.raw", **raw.model_dump())

    def process(self, publish: Publish) -> None:
        """Save and say what the pipeline and the quality control find."""
        for column, tile_id in enumerate(self.tile_ids):
            fields = self.fields(tile_id)
            processed = self.folder / f"{tile_id}.processed.tiff"
            write_bytes(processed, b"processed")
            publish("tile.processed", **fields, path=str(processed))
            levels = {"min": column, "max": 250, "mean": 128, "std": 30}
            publish("tile.statistics.min_max_mean", **fields, **levels)
            publish("tile.statistics.focus", **fields, focus=0.75)
            match = {
                "row": 0,
                "column": column - 1,
                "dX": -1.5,
                "dY": 0.5,
                "dXsd": 0.1,
                "dYsd": 0.2,
                "distance": 1.6,
                "rotation": 0.01,
                "position": "left",
                "pX": [4.0, 5.0],
                "pY": [1.0, 2.0],
                "qX": [88.0, 89.0],
                "qY": [3.0, 4.0],
            }
            publish("tile.matches", **fields, matches=[match] if column else [])
            publish("qc.tile", **fields, passed=column != 1)

    def complete(self, publish: Publish = publish_nothing) -> None:
        """Save and say the end."""
        body = Complete(
            montage_id=self.montage_id,
            acquisition_id=self.acquisition_id,
            start_time="2026-01-02T03:04:05Z",
            pixel_size=4.0,
            rotation_angle=0.5,
            aperture_centroid=(7, 8),
            tiles={
                tile_id: {
                    "raster_index": column,
                    "stage_position": (column * 4000, 0),
                    "raster_position": (column, 0),
                }
                for column, tile_id in enumerate(self.tile_ids)
            },
        )
        path = self.folder / f"{self.acquisition_id}.complete.json"
        write_bytes(path, body.model_dump_json().encode())
        publish("montage.complete", **body.model_dump())
