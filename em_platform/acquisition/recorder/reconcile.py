"""What the coordinator wrote beside the frames and the bus did not bring.

The one place that reads bodies of messages from the disk: the recorder, the pipeline,
quality control, the buffer and the operator's page ask here. Which file is what stands
in frame_paths.py.
"""

import json
import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path

from pydantic import ValidationError

from em_platform.acquisition.recorder.events import COMPLETE, RAW, Message
from em_platform.errors import StorageError, is_own_fault
from em_platform.messaging.bus import Bus
from em_platform.messaging.topics import Body, read_body, reason
from em_platform.stitching.sidecar_files import RECIPE, TRUTH
from em_platform.storage.own_faults import OwnFaults

log = logging.getLogger(__name__)

# Written by the coordinator, see frame_paths.complete_body_path.
COMPLETE_SUFFIX = ".complete.json"
OF_THE_MONTAGE = (COMPLETE_SUFFIX, TRUTH, RECIPE)
"""How the names of files end that are about a montage, and not about one tile."""

# A change within the resolution of a file system's clock (2 s on FAT and some network
# disks) would leave the folder's time as it is.
_SETTLED_NS = 2_000_000_000


def scan_folder(
    folder: Path,
    *,
    recorded: Collection[str],
    is_complete: Callable[[str], bool],
) -> list[Message]:
    """What the folder of one montage holds and is not recorded: tiles, then the end.

    A file that is no such message is logged and passed over.
    """
    names = sorted(path.name for path in folder.glob("*.json"))
    # A tile is known by its file name, so that no file is opened of what is recorded.
    tiles = [n for n in names if not n.endswith(OF_THE_MONTAGE)]
    new = [n for n in tiles if n.removesuffix(".json") not in recorded]
    ends = [n for n in names if n.endswith(COMPLETE_SUFFIX)]
    open_ends = [n for n in ends if not is_complete(n.removesuffix(COMPLETE_SUFFIX))]
    found = [_message(folder / name, RAW) for name in new]
    found += [_message(folder / name, COMPLETE) for name in open_ends]
    return [message for message in found if message is not None]


class Reconciliation:
    """Of the folders of montages with what a service has recorded.

    At the start, after the broker was away, and every `every_s`. `note` takes one
    folder and returns how much of it was new; none is read again until it changes.
    """

    def __init__(
        self,
        bus: Bus,
        frames: Path,
        note: Callable[[Path], int],
        *,
        who: str,
        every_s: float,
    ) -> None:
        self._bus = bus
        self._frames = frames
        self._note = note
        self._who = who
        self._every_s = every_s
        self._looked_at = 0.0
        self._reconnects = 0
        self._seen_ns: dict[Path, int] = {}
        self._faults = OwnFaults(f"{who}: frames")

    def tick(self) -> None:
        """Look when it is due."""
        late = time.monotonic() - self._looked_at > self._every_s
        # What was published while the broker was away was published to nobody.
        returned = self._bus.connected and self._reconnects != self._bus.reconnects
        if late or returned:
            self._reconnects = self._bus.reconnects
            self.look()

    def look(self) -> None:
        """Note all that is new; what cannot be read or noted is logged."""
        self._looked_at = time.monotonic()
        try:
            folders = [path for path in self._frames.iterdir() if path.is_dir()]
            found = sum(self._look_into(folder) for folder in sorted(folders))
        except FileNotFoundError:
            return  # no frame was ever saved
        except (StorageError, OSError) as error:
            pause_s = self._faults.pause_s(error)
            self._looked_at += pause_s - self._every_s
            return
        self._faults.over()
        if found:
            log.info("%s: %d messages were found beside the frames", self._who, found)

    def _look_into(self, folder: Path) -> int:
        changed_ns = folder.stat().st_mtime_ns
        if self._seen_ns.get(folder) == changed_ns:
            return 0
        found = self._note(folder)
        if time.time_ns() - changed_ns > _SETTLED_NS:
            self._seen_ns[folder] = changed_ns
        return found


def _message(path: Path, topic: str) -> Message | None:
    try:
        sent_at = str(path.stat().st_mtime_ns // 1_000_000)
        message = read_body(topic, path.read_bytes())
    except ValidationError as error:
        why = reason(error)
    except OSError as error:
        if is_own_fault(error):
            raise
        why = error.strerror or str(error)
    else:
        body: Body = json.loads(message.model_dump_json())
        return Message(topic, body, {"source": str(path), "sent_at": sent_at})
    log.warning(
        "frames: %s is not the body of a %s message (%s); it is passed over, the "
        "coordinator should write it again",
        path,
        topic,
        why,
    )
    return None
