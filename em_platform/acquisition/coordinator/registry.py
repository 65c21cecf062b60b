"""What the coordinator must still know after it was killed; written whole or not."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from em_platform.acquisition.coordinator import roi_queue
from em_platform.acquisition.coordinator.roi_queue import Entry, Queue
from em_platform.errors import StorageError
from em_platform.model import Model, Size
from em_platform.storage.atomic import write_bytes

log = logging.getLogger(__name__)

Mode = Literal["preview", "running", "paused"]


class Begun(Model):
    """An acquisition that was begun and is not finished.

    `roi` is what it images, in frames of that size and scale; `for_montage` the entry
    of the queue for which it is done (None: for none).

    After a STOP_NOW it is `stopped` until it resumes; `rejected` are the tiles that
    quality control found dark, `unjudged` those imaged before the stop without a
    verdict, `superseded` the ids of frames that are imaged again.
    """

    acquisition_id: str
    started_at: datetime
    roi: dict[str, Any]
    for_montage: str | None
    frame: Size
    pixel_nm: float
    rotation_rad: float
    lens: bool = False
    tilt_index: int | None = None
    stopped: bool = False
    rejected: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()


class Scale(Model):
    """How the image lies on the stage; `settings` are those for which it was found."""

    pixel_nm: float
    rotation_rad: float
    settings: str = ""


class SessionState(Model):
    """All of it."""

    queue: Queue = ()
    begun: Begun | None = None
    mode: Mode = "preview"
    completed: int = 0
    since_lens: int = 0
    lens_setup: dict[str, Any] | None = None
    scales: dict[str, Scale] = Field(default_factory=dict)
    centroids_nm: dict[int, tuple[int, int]] = Field(default_factory=dict)


class Registry:
    """SessionState that are written to one file with every change.

    When they cannot be written the change holds in this process, `complaint` says why,
    and `save` tries again.
    """

    def __init__(self, path: Path) -> None:
        self.complaint = ""
        self._path = path
        self.state = _read(path)

    @property
    def current(self) -> Entry | None:
        """The region that has been begun and is not finished."""
        return roi_queue.current(self.state.queue)

    def change(self, **changes: Any) -> None:
        """Change pages and write them; nothing is written when nothing changes."""
        pages = self.state.model_copy(update=changes)
        if pages != self.state:
            self.state = pages
            self.save()

    def save(self) -> None:
        """Write all pages."""
        try:
            write_bytes(self._path, self.state.model_dump_json(indent=1).encode())
        except StorageError as error:
            if not self.complaint:
                log.error("%s", error)
            self.complaint = str(error)
        else:
            self.complaint = ""

    def change_current(self, **changes: Any) -> Entry | None:
        """Change the current entry; what it is then."""
        entry = self.current
        if entry is None:
            return None
        entry = entry.changed(**changes)
        self.change(queue=roi_queue.with_entry(self.state.queue, entry))
        return entry


def _read(path: Path) -> SessionState:
    try:
        return SessionState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return SessionState()
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"coordinator: the session in {path} cannot be read "
            f"({str(error).splitlines()[0]}), its queue was expected there; move the "
            "file away to begin anew",
            url=str(path),
        ) from error
