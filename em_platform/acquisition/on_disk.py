"""What the coordinator wrote beside the frames of a montage, as messages.

Which file is what stands in frame_paths.py.
"""

import json
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from em_platform.acquisition.events import COMPLETE, RAW, Said
from em_platform.messaging.topics import model_of, reason
from em_platform.stitching.beside_frames import RECIPE

log = logging.getLogger(__name__)

COMPLETE_SUFFIX = ".complete.json"
OF_THE_MONTAGE = (COMPLETE_SUFFIX, ".truth.json", RECIPE)
"""How the names of files end that tell of a montage, and not of one tile."""


def said_on_disk(
    folder: Path,
    *,
    recorded: Collection[str],
    is_complete: Callable[[str], bool],
) -> list[Said]:
    """What the folder of one montage holds and is not recorded: tiles, then the end.

    A file that is no such message is logged and passed over.
    """
    names = sorted(path.name for path in folder.glob("*.json"))
    tiles = [n for n in names if not n.endswith(OF_THE_MONTAGE)]
    new = [n for n in tiles if n.removesuffix(".json") not in recorded]
    ends = [n for n in names if n.endswith(COMPLETE_SUFFIX)]
    open_ends = [n for n in ends if not is_complete(n.removesuffix(COMPLETE_SUFFIX))]
    found = [_said(folder / name, RAW) for name in new]
    found += [_said(folder / name, COMPLETE) for name in open_ends]
    return [said for said in found if said is not None]


def _said(path: Path, topic: str) -> Said | None:
    body = _read(path, topic)
    if body is None:
        return None
    sent_at = str(path.stat().st_mtime_ns // 1_000_000)
    return Said(topic, body, {"source": str(path), "sent_at": sent_at})


def _read(path: Path, topic: str) -> dict[str, Any] | None:
    try:
        message = model_of(topic).model_validate_json(path.read_bytes())
    except ValidationError as error:
        why = reason(error)
    except OSError as error:
        why = error.strerror or str(error)
    else:
        body: dict[str, Any] = json.loads(message.model_dump_json())
        return body
    log.warning(
        "frames: %s is not the body of a %s message (%s); it is passed over, the "
        "coordinator should write it again",
        path,
        topic,
        why,
    )
    return None
