"""What all machines of the coordinator share: settings, folders, the last problem."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from em_platform.acquisition.frame_paths import frames_folder
from em_platform.config import Settings


@dataclass(slots=True, kw_only=True)
class Context:
    """Shared by all machines of one coordinator, as `self.context`.

    `problem` is the sentence to publish when a state called `Failure` is entered; it is
    set before. `latest` gives the newest message of a topic (None: none
    came) and `age_s` how old it is.
    """

    settings: Settings
    frames: Path
    folder: Path
    problem: str = ""
    latest: Callable[[str], Any] = field(default=lambda _: None)
    age_s: Callable[[str], float] = field(default=lambda _: math.inf)
    _numbers: Any = field(default_factory=itertools.count)

    @property
    def references(self) -> Path:
        """Folder of `bright.tiff` and `dark.tiff` of this microscope."""
        return self.frames / "references"

    def frame(self, kind: str, **flags: bool) -> dict[str, Any]:
        """Fields of a `camera.command` for a frame that belongs to no montage.

        `kind` (letters and '-') begins its tile id; `flags` are `brightfield`,
        `darkfield`.
        """
        now = f"{datetime.now(UTC):%Y%m%dt%H%M%S}"
        return {
            "tile_id": f"{kind}-{now}-{next(self._numbers)}",
            "montage_id": "",
            "row": 0,
            "column": 0,
            "overlap": 0,
            **flags,
        }


def context_of(settings: Settings) -> Context:
    """The context in the folders that the settings name."""
    return Context(
        settings=settings,
        frames=frames_folder(settings),
        folder=Path(settings.home).absolute() / "coordinator",
    )
