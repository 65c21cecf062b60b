"""What texts of the bus may become: no message names a file elsewhere.

The table is filled by the topics' own models: a field of a new version that may hold a
path or a name fails here until it has its rule.
"""

import typing
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from em_platform.acquisition.frame_paths import (
    checked_frame,
    complete_body_path,
    frame_path,
    montage_folder,
    tile_body_path,
    truth_path,
)
from em_platform.acquisition.recorder.events import safe_id
from em_platform.errors import DataError, DeviceError
from em_platform.messaging.topics import topics
from em_platform.storage import layout

OWN_FRAME = "it is that of the tile's own frame, or the message counts for nothing"
NAME = "it is a plain name where it becomes a path: refused, or made one"
TEXT = "it is kept, compared or read as text, and opened by nobody"
RULES = {
    **dict.fromkeys(("path",), OWN_FRAME),
    **dict.fromkeys(
        ("tile_id", "montage_id", "acquisition_id", "active_montage_id"), NAME
    ),
    # Names in the tables of a montage and of neighbours, each with its raster place.
    **dict.fromkeys(("tiles", "remove", "reorder", "roi_id", "roi_name"), TEXT),
    # Of the recorder's rows, of a query to TEM DB, and of what people read.
    **dict.fromkeys(("specimen_id", "section_id", "tilt_series_id", "metadata"), TEXT),
    **dict.fromkeys(("reason", "error", "error_message", "source", "state"), TEXT),
    **dict.fromkeys(
        ("old", "new", "aperture", "bit_depth", "reject_reason", "fault_type"), TEXT
    ),
    **dict.fromkeys(("device_name", "device_model_id", "device_sn"), TEXT),
    **dict.fromkeys(("station", "current_station", "target_station"), TEXT),
    # Pictures and a lens model as base64, numbers by their names.
    **dict.fromkeys(("image", "colorbar", "transform", "metrics"), TEXT),
    **dict.fromkeys(("linear", "rotary"), TEXT),
    # Of `tile.pyramid`, to which nobody here listens.
    "paths": TEXT,
}
EVIL = (
    *("..", "../x", "/etc/passwd", "a/b", ".hidden", "a\nb", "a b", "", "é", "a\\b"),
    *("a\0", "x" * 300, "~", "*", "-\u2028"),
)


def fields() -> Iterator[tuple[str, str]]:
    """Topic and name of each field that may hold a text, at any depth."""
    for topic, model in topics().items():
        for name in _texts(model):
            yield topic, name


def _texts(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        for part in _parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _texts(part)
            elif part in (str, Any, object, dict):
                yield name


def _parts(annotation: Any) -> Iterator[Any]:
    if typing.get_origin(annotation) is Literal:
        return
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return
    if not (parts := typing.get_args(annotation)):
        yield annotation
    for part in parts:
        yield from _parts(part)


def test_every_text_of_the_bus_has_a_rule() -> None:
    """round3 4.3, of the bus: what has none stops here."""
    found = dict.fromkeys(name for _, name in fields())
    assert not [name for name in found if name not in RULES]
    assert not [name for name in RULES if name not in found]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda f, n: montage_folder(f, n or "."), id="montage"),
        pytest.param(lambda f, n: frame_path(f, "m", n), id="frame"),
        pytest.param(lambda f, n: tile_body_path(f, "m", n), id="body"),
        pytest.param(lambda f, n: complete_body_path(f, "m", n), id="complete"),
        pytest.param(lambda f, n: truth_path(f, "m", n), id="truth"),
    ],
)
@pytest.mark.parametrize("name", EVIL)
def test_a_name_that_is_no_name_is_refused(
    make: Callable[[Path, str], Path], name: str, tmp_path: Path
) -> None:
    if len(name) == 300:
        return  # longer ones do not pass the bus (`messaging.limits`)
    with pytest.raises(DeviceError, match="cannot be a file's name"):
        make(tmp_path, name)


@pytest.mark.parametrize("name", EVIL)
def test_ids_become_plain_names_of_the_store(name: str) -> None:
    own = safe_id(name)
    assert own.isascii() and len(own) <= 200
    assert layout.montage(own).split("/") == ["montages", own, "montage.json"]
    assert own[0] not in ".-"


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "m/a.tiff", "../m/a.tiff", "", "file:///m/a.tiff"),
        *("{frames}/n/a.tiff", "{frames}/m/b.tiff", "{frames}/m/../n/a.tiff"),
        *("{frames}/m/a.tiff\n", "{frames}/m/a.tiff/", "{frames}/m/a.tiff/."),
        "http://127.0.0.1/m/a.tiff",
    ],
)
def test_a_message_names_the_frame_of_its_own_tile(path: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "n").mkdir()
    (tmp_path / "m/a.tiff").touch()
    fine = checked_frame(tmp_path, f"{tmp_path}/m/a.tiff", "m", "a")
    assert fine == tmp_path / "m/a.tiff"
    named = path.format(frames=tmp_path)
    if Path(named) == fine:
        return  # the same file by another spelling
    with pytest.raises(DataError, match="names the frame"):
        checked_frame(tmp_path, named, "m", "a")
    (tmp_path / "m/a.tiff").unlink()
    (tmp_path / "m/a.tiff").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="names the frame"):
        checked_frame(tmp_path, str(fine), "m", "a")
