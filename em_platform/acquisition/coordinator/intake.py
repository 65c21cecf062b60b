"""Takes regions into the queue: from `roi.create`, or from TEM DB by `roi.load`."""

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from em_platform.acquisition.coordinator.lens import LENS
from em_platform.acquisition.coordinator.roi_queue import FINISHED, Entry, added
from em_platform.acquisition.coordinator.session import Session
from em_platform.acquisition.frame_paths import montage_folder
from em_platform.acquisition.machines.loop import Loop
from em_platform.acquisition.roi import RoiFields, created, polygon_nm
from em_platform.config import Settings
from em_platform.errors import PlatformError, RecordError, SourceUnavailable
from em_platform.messaging.topics import Body
from em_platform.temdb import temdb_token, temdb_url

log = logging.getLogger(__name__)

_TIMEOUT_S = 20.0  # a slow TEM DB holds up only its own thread
_PAGE = 1000  # regions an answer; a section with more comes page by page


class Loader:
    """Asks TEM DB in a thread of its own; the loop takes the answer."""

    def __init__(self, settings: Settings, session: Session, loop: Loop) -> None:
        self._settings = settings
        self._session = session
        self._loop = loop

    def load(self, message: Any) -> None:
        """Answer one `roi.load`: queue its regions, or report why not."""
        # Not in the loop: a slow database must not hold up a tile.
        threading.Thread(
            target=self._load, args=(message,), name="roi.load", daemon=True
        ).start()

    def _load(self, message: Any) -> None:
        try:
            found = rois_of_section(
                temdb_url(self._settings),
                temdb_token(self._settings),
                specimen_id=message.specimen_id,
                section_id=message.section_id,
            )
            regions = [
                region_of(
                    roi,
                    aperture_id=message.aperture_id,
                    # else each would be put before the one taken last
                    queue_position=(message.queue_position or 0) + number,
                )
                for number, roi in enumerate(found)
            ]
        except PlatformError as error:
            sentence = str(error)
            self._loop.put(lambda: self._session.preview_failed(sentence))
            return
        if not regions:
            sentence = (
                f"coordinator: TEM DB has no region of section {message.section_id} of "
                f"{message.specimen_id}; add one, or draw it on the page"
            )
            self._loop.put(lambda: self._session.preview_failed(sentence))
            return
        # in the loop: nothing else changes the queue meanwhile
        self._loop.put(lambda: self._take(regions))

    def _take(self, regions: list[RoiFields]) -> None:
        for fields in regions:
            take_roi(self._session, fields, {"source": "TEM DB"})


class RegionPayload(TypedDict, total=False):
    """Where it lies: of points `_point` reads all forms."""

    vertices: Sequence[object]
    optical_pixel_size: float
    aperture_centroid: object


class KnownRegion(TypedDict):
    """A region as TEM DB answers it, as far as it is needed."""

    roi_id: str
    specimen_id: str | None
    section_id: str | None
    roi_payload: RegionPayload | None


def rois_of_section(
    url: str, token: str, *, specimen_id: str, section_id: str
) -> list[KnownRegion]:
    """The answers of `GET /api/v2/rois` for one section.

    Raises
    ------
    SourceUnavailable
        TEM DB is down, refuses, or answers something else.
    """
    # here: the coordinator starts without it
    import httpx

    wanted: dict[str, str | int] = {
        "specimen_id": specimen_id,
        "section_id": section_id,
        "limit": _PAGE,
    }
    found: list[KnownRegion] = []
    try:
        with httpx.Client(
            headers={"Authorization": f"Bearer {token}"}, timeout=_TIMEOUT_S
        ) as client:
            # a page that is not full is the last one
            while len(found) % _PAGE == 0:
                answer = client.get(
                    f"{url}/api/v2/rois", params={**wanted, "skip": len(found)}
                )
                answer.raise_for_status()
                page = answer.json()
                if not isinstance(page, list):
                    raise ValueError(f"found {type(page).__name__}, expected a list")
                if not page or page[:1] == found[:1]:  # the end, or no paging
                    break
                found += page
    except (httpx.HTTPError, ValueError) as error:
        raise SourceUnavailable(
            f"coordinator: the regions of section {section_id} were not loaded: "
            f"{error}; see that TEM DB runs, then load again"
        ) from error
    return found


def region_of(
    roi: KnownRegion, *, aperture_id: int | None, queue_position: int | None
) -> RoiFields:
    """Fields of the `roi.create` of one region of TEM DB; its montage has its id.

    Raises
    ------
    RecordError
        It has no polygon, or a point that is none.
    """
    payload = roi.get("roi_payload") or {}
    corners = [_point(each) for each in payload.get("vertices") or ()]
    if len(corners) < 3:
        raise RecordError(
            f"coordinator: region {roi['roi_id']} of TEM DB has {len(corners)} "
            "corners, three or more were expected; draw its polygon"
        )
    fields: RoiFields = {
        "vertices": corners,
        "rotation_angle": 0.0,
        "montage_id": roi["roi_id"],
        "roi_name": roi["roi_id"],
        "specimen_id": roi["specimen_id"],
        "section_id": roi["section_id"],
        "aperture_id": aperture_id,
        "queue_position": queue_position,
        "metadata": {"roi_id": roi["roi_id"]},
    }
    scale, centroid = (
        payload.get("optical_pixel_size"),
        payload.get("aperture_centroid"),
    )
    if scale and centroid:
        fields |= {
            "overview_nm_per_pixel": scale,
            "aperture_centroid_pixel": _point(centroid),
            "aperture_centroid_physical": {"x": 0.0, "y": 0.0},
        }
    made: RoiFields = created(fields).model_dump(mode="json")
    return made


def _point(given: Any) -> dict[str, float]:
    """A corner as the messages have it; TEM DB has pairs or objects."""
    try:
        x, y = (given["x"], given["y"]) if isinstance(given, Mapping) else given[:2]
        return {"x": float(x), "y": float(y)}
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"coordinator: a point of a region of TEM DB is {given!r}, two numbers x "
            "and y were expected; draw its polygon again"
        ) from error


def take_roi(session: Session, fields: Body, headers: Mapping[str, str]) -> None:
    """Put the region of a `roi.create` into the queue; the same one twice counts once.

    One that cannot be imaged is refused by a `roi.status`.
    """
    # Identifies the sending: a repeat after an outage has the same three.
    sending = json.dumps([headers.get(n) for n in ("source", "sent_at", "sequence")])
    registry = session.registry
    queue = registry.state.queue
    montage_id = str(fields["montage_id"])
    known = next((e for e in queue if e.montage_id == montage_id), None)
    if known is not None and (known.sending == sending or known.roi == fields):
        # the same region, sent anew after its end: image it once more
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


def _refusal(session: Session, fields: Body, known: Entry | None) -> str:
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
        # both for their errors: an id that is no folder, a polygon that is none
        montage_folder(session.context.frames, montage_id)
        # a lens montage without a polygon is imaged about its center
        if fields["acquisition_type"] != LENS or fields["vertices"]:
            polygon_nm(created(fields))
    except PlatformError as error:
        return str(error)
    asked = [name for name, is_asked in fields["calibrations"].items() if is_asked]
    # LENS is a state of its own and no routine
    missing = sorted({*asked} - session.requirements.available - {LENS})
    if missing:
        there_is = ", ".join(sorted(session.requirements.available))
        return (
            f"coordinator: roi {montage_id} asks for {', '.join(missing)}, there is no "
            f"such routine, only {there_is}; leave it out"
        )
    return ""
