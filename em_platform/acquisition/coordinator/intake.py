"""Takes a region into the queue, or reports why not."""

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from em_platform.acquisition.coordinator.lens_montage import LENS
from em_platform.acquisition.coordinator.roi_queue import FINISHED, Entry, added
from em_platform.acquisition.coordinator.session import Session
from em_platform.acquisition.frame_paths import montage_folder
from em_platform.acquisition.roi import created, polygon_nm
from em_platform.errors import PlatformError

log = logging.getLogger(__name__)


def take_roi(
    session: Session, fields: dict[str, Any], headers: Mapping[str, str]
) -> None:
    """Put the region of a `roi.create` into the queue; the same one twice counts once.

    One that cannot be imaged is refused by a `roi.status`.
    """
    sending = json.dumps([headers.get(n) for n in ("source", "sent_at", "sequence")])
    registry = session.registry
    queue = registry.state.queue
    montage_id = str(fields["montage_id"])
    known = next((e for e in queue if e.montage_id == montage_id), None)
    if known is not None and (known.sending == sending or known.roi == fields):
        is_new_run = known.status in FINISHED and known.sending != sending
        if not is_new_run:
            return
    sentence = _refusal(session, fields, known)
    if sentence:
        log.error("%s", sentence)
        session.publisher.refused(montage_id, sentence)
        return
    entry = Entry(
        roi=fields,
        changed_at=int(time.time()),
        source="UI" if headers.get("service") == "operator" else "external",
        sending=sending,
    )
    registry.change(queue=added(queue, entry, fields.get("queue_position")))
    session.publisher.roi(entry)
    session.publisher.queue(registry.state)


def _refusal(session: Session, fields: dict[str, Any], known: Entry | None) -> str:
    """Why the region is not taken, in a sentence."""
    montage_id = fields["montage_id"]
    if known is not None and not known.waits and known.status not in FINISHED:
        return (
            f"coordinator: roi {montage_id} is being imaged, another one of that name "
            "came; give it another montage_id"
        )
    if not montage_id:
        return "coordinator: a roi has no montage_id; give it one"
    try:
        montage_folder(session.context.frames, montage_id)
        if fields["acquisition_type"] != LENS or fields["vertices"]:
            polygon_nm(created(fields))
    except PlatformError as error:
        return str(error)
    asked = [name for name, is_asked in fields["calibrations"].items() if is_asked]
    missing = sorted({*asked} - session.requirements.available - {LENS})
    if missing:
        there_is = ", ".join(sorted(session.requirements.available))
        return (
            f"coordinator: roi {montage_id} asks for {', '.join(missing)}, there is no "
            f"such routine, only {there_is}; leave it out"
        )
    return ""
