"""Notes finished parts, once they are safe on the disk."""

import os
import threading

from em_platform.ingest.manifest import Manifest, Part


class Ledger:
    """Makes parts durable, those that finish at the same time together.

    A killed process leaves its writes to the kernel, but a power cut does not: a part
    is noted only after `fdatasync`. Both cost a few milliseconds and a part takes about
    a second at 16 MB, so each could pay for itself; on a fast network the parts that
    wait for one sync are taken along by the next (group commit), and so the number of
    syncs is bounded by the disk and not by the number of parts.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, str, Part]] = []

    def note(self, name: str, part: Part, *, descriptor: int) -> None:
        """Return when the part that was written to `descriptor` can not be lost."""
        with self._lock:
            self._waiting.append((descriptor, name, part))
        with self._turn:
            with self._lock:
                batch, self._waiting = self._waiting, []
            if not batch:
                return  # whose turn it was before has taken ours along
            for written in {each[0] for each in batch}:
                os.fdatasync(written)
            self._manifest.add_parts([(name, part) for _, name, part in batch])
