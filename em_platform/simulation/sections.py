"""Sections of the procedural specimen, imaged tile by tile, with all that is true.

The same sensor as the simulated camera's, so the tiles are those of a live session; no
bus, no devices, no waiting.
"""

import json
import math
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from TEM_comms.camera import Command
from TEM_comms.stage.motion import Status as StageStatus

from em_platform.acquisition.frame_paths import tile_name
from em_platform.acquisition.raster import stage_position
from em_platform.config import AcquisitionSettings
from em_platform.errors import OutputRefused
from em_platform.formats import encode_tiff
from em_platform.model.truth import MontageTruth, TileTruth
from em_platform.simulation.devices.sensor import Frame, Sensor
from em_platform.simulation.specimen.classes import CLASSES
from em_platform.stitching.compute import Mapper, serial
from em_platform.stitching.sidecar_files import TRUTH
from em_platform.storage.guard import whole_folder

KIND = "simulated section"
"""What the folder of a section says of itself."""

LABELS = "labels"
"""Folder of the label images; in it no list of tiles looks for frames."""

_PLAN = "section.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSection:
    """A section that stands on the disk; not `made` where it stood there before."""

    folder: Path
    tiles: int
    made: bool


def simulate_sections(
    folder: Path,
    sections: Iterable[int],
    *,
    settings: AcquisitionSettings,
    name: str = "sections",
    labels: bool = True,
    overwrite: bool = False,
    run: Mapper = serial,
) -> Iterator[MadeSection]:
    """Write each section as a folder of tiles with their list, labels and truth.

    A folder has `tiles.json`, which `stitch` and the inbox read: the nominal place of
    each tile as the stage reported it. `<section>.truth.json` says where each truly
    lies, `labels/` what each pixel shows. Any section is the same alone or with others;
    one that stands whole with the same plan is kept. Rows, columns, overlap and all
    that is wrong with the tiles are the settings of the simulated microscope.

    Raises
    ------
    OutputRefused
        Another folder stands at the place of a section, or without `overwrite` one of
        other settings.
    StorageError
        It could not be written; nothing of that section then stands there.
    """
    for section in sections:
        key = f"{name}-s{section:04d}"
        target, tiles = folder / key, settings.rows * settings.columns
        plan = _plan(section, settings, labels=labels)
        if _stands(target, plan, overwrite=overwrite):
            yield MadeSection(folder=target, tiles=tiles, made=False)
            continue
        with whole_folder(target, KIND) as own:
            _write_section(own, key, section, settings, labels=labels, run=run)
            (own / _PLAN).write_text(plan)
        yield MadeSection(folder=target, tiles=tiles, made=True)


def _plan(section: int, settings: AcquisitionSettings, *, labels: bool) -> str:
    wanted = {"simulation", "rows", "columns", "overlap", "pixel_nm", "magnification"}
    chosen = settings.model_dump(mode="json", include=wanted)
    plan = {"section": section, "labels": labels, "classes": CLASSES, **chosen}
    return json.dumps(plan, indent=1) + "\n"


def _stands(target: Path, plan: str, *, overwrite: bool) -> bool:
    # A section is renamed into its place when it is whole.
    there = target / _PLAN
    if not there.is_file():
        return False
    is_same = there.read_text() == plan
    if not is_same and not overwrite:
        raise OutputRefused(
            f"output: {target} holds the section of other settings ({_PLAN}), the same "
            "or a new name was expected; name another output, or replace it by "
            "--overwrite"
        )
    return is_same


def _write_section(
    own: Path,
    key: str,
    section: int,
    settings: AcquisitionSettings,
    *,
    labels: bool,
    run: Mapper,
) -> None:
    imaging = _Imaging(own, key, section, settings, labels=labels)
    raster = [
        (row, column)
        for row in range(settings.rows)
        for column in range(settings.columns)
    ]
    frames = list(run(imaging.image, raster))
    first: MontageTruth = frames[0][1]
    truth = first.model_copy(
        update={
            "acquisition_id": key,
            "tiles": {tile.tile_id: tile for tile, _ in frames},
        }
    )
    (own / f"{key}{TRUTH}").write_text(truth.model_dump_json(indent=1) + "\n")
    (own / "tiles.json").write_text(_list([t for t, _ in frames], truth) + "\n")


def _list(tiles: list[TileTruth], truth: MontageTruth) -> str:
    """The list of tiles as a microscope knows them: from the smallest y and x on."""
    top = min(tile.nominal_y_px for tile in tiles)
    left = min(tile.nominal_x_px for tile in tiles)
    rows = [
        {
            "file": f"{tile.tile_id}.tiff",
            "x_px": round(tile.nominal_x_px - left, 4),
            "y_px": round(tile.nominal_y_px - top, 4),
            "row": tile.row,
            "column": tile.column,
        }
        for tile in tiles
    ]
    return json.dumps({"pixel_nm": truth.pixel_nm, "tiles": rows}, indent=1)


class _Imaging:
    """Images tiles of one section; each thread has a sensor of its own."""

    def __init__(
        self,
        own: Path,
        key: str,
        section: int,
        settings: AcquisitionSettings,
        *,
        labels: bool,
    ) -> None:
        self._own, self._key, self._section = own, key, section
        self._settings, self._labels = settings, labels
        self._local = threading.local()

    def image(self, place: tuple[int, int]) -> tuple[TileTruth, MontageTruth]:
        """Write one tile and its labels; what is true of it."""
        row, column = place
        tile_id = tile_name(self._key, row, column)
        x_nm, y_nm = self._stage_nm(row, column)
        sensor = self._sensor()
        sensor.stage = StageStatus(x=x_nm, y=y_nm, in_motion=False, calibrated=True)
        frame = sensor.frame(
            Command(
                tile_id=tile_id,
                montage_id=self._key,
                row=row,
                column=column,
                overlap=self._overlap_px(),
                stage_position=(x_nm, y_nm),
            )
        )
        if "missing" not in frame.tile.faults:
            path = self._own / f"{tile_id}.tiff"
            path.write_bytes(encode_tiff(frame.image))
        if self._labels:
            self._write_labels(sensor, frame)
        return frame.tile, frame.montage

    def _sensor(self) -> Sensor:
        if not hasattr(self._local, "sensor"):
            self._local.sensor = Sensor(self._settings)
            self._local.sensor.section = self._section
        sensor: Sensor = self._local.sensor
        return sensor

    def _overlap_px(self) -> int:
        return round(self._settings.simulation.tile_px * self._settings.overlap)

    def _stage_nm(self, row: int, column: int) -> tuple[int, int]:
        """Stage `(x, y)` of a tile; the raster's first tile begins at the origin."""
        edge = self._settings.simulation.tile_px
        step, middle = edge - self._overlap_px(), 0.5 * edge
        return stage_position(
            row * step + middle,
            column * step + middle,
            pixel_nm=self._settings.pixel_nm,
            rotation_rad=math.radians(self._settings.simulation.rotation_deg),
        )

    def _write_labels(self, sensor: Sensor, frame: Frame) -> None:
        found = sensor.labels(frame.tile, frame.montage)
        if found is None:
            return
        import tifffile  # here: it costs a third of a second to load

        folder = self._own / LABELS
        folder.mkdir(exist_ok=True)
        # Few values, long runs: zlib makes a tenth of the size of it.
        images: dict[str, np.ndarray] = {"cells": found[0], "classes": found[1]}
        for kind, image in images.items():
            path = folder / f"{frame.tile.tile_id}.{kind}.tif"
            tifffile.imwrite(path, image, compression="zlib", metadata=None)
