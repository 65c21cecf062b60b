"""Everything the page shows, made from the messages; no bus, no browser, no clock."""

from collections.abc import Callable, Mapping
from typing import NotRequired, TypedDict

from em_platform.acquisition.frame_paths import acquisition_of
from em_platform.messaging.topics import Body
from em_platform.operator.finished import Finished
from em_platform.operator.modes import UNFINISHED, in_queue, mode_of, path_of, refusals
from em_platform.operator.parts import (
    Journal,
    Parts,
    Pictures,
    QcLight,
    of_lens,
    of_montage,
    of_order,
    of_region,
    of_tile,
    of_verdict,
)
from em_platform.operator.tile_map import NewestTile, ShownMap, TileMap

# Each is shown with the time of its last status.
_DEVICES = (
    "camera.status",
    "scope.status",
    "scope.image_shift.status",
    "stage.motion.status",
    "stage.aperture.status",
    "stage.rotation.status",
    "stage.transfer.status",
)
# Sent again and again while its service lives; the others speak when there is work.
_STEADY = frozenset({*_DEVICES, "state.current", "buffer.status"})
_STOPPABLE = ("acquiring", "paused", "failed")
_OVER = ("completed", "cancelled", "error")


class Changes(TypedDict):
    """What a page gets to know: parts that changed by their names, tiles, the time."""

    version: int
    parts: Body
    map: NotRequired[ShownMap]
    now: NotRequired[float]


class Board:
    """Receives messages and gives what has changed since a version.

    Not safe to use from several threads; its owner has a lock.
    """

    def __init__(self) -> None:
        self.parts = Parts()
        self.pictures = Pictures()
        self.map = TileMap()
        self.finished = Finished()
        self._map_began = 0
        self._qc = QcLight()
        self._newest = NewestTile()
        self._services: dict[str, dict[str, str | int]] = {}
        self._journal = Journal()
        self._handlers: dict[str, Callable[[Body, float], None]] = {
            "state.current": self._state,
            "state.change": lambda body, now: self._state({"state": body["new"]}, now),
            "montage.status": self._montage,
            "montage.complete": self._complete,
            "montage.minimaps": self._minimaps,
            "roi.current": lambda body, now: self.parts.put("roi", dict(body)),
            "roi.status": self._roi_status,
            "roi.queue.status": self._queue,
            "buffer.status": lambda body, now: self._dated("buffer", body, now),
            "ui.run": self._ordered,
            "ui.setup": self._ordered,
            "tile.raw": self._raw,
            "tile.preview": self._preview,
            "tile.mini": self._mini,
            # Asked for with each message: another map may be shown by then.
            "tile.template_matches": self._tile(lambda: self.map.searched),
            "tile.matches": self._tile(lambda: self.map.matched),
            "tile.statistics.min_max_mean": self._tile(lambda: self.map.measured),
            "tile.statistics.focus": self._tile(lambda: self.map.measured),
            # Only the newest tile shows it; its handler has taken it already.
            "tile.statistics.histogram": self._tile(lambda: lambda body, version: None),
            "qc.tile": self._judged,
            "lens_correction.transform": self._lens,
            **{topic: self._device(topic) for topic in _DEVICES},
        }
        self._update_actions()

    @property
    def topics(self) -> tuple[str, ...]:
        """All that it wants to receive."""
        return (*self._handlers, "qc.status")

    def receive(
        self, topic: str, body: Body, headers: Mapping[str, str], now: float
    ) -> None:
        """Note one message at the Unix time `now`."""
        service = headers.get("service") or "an unnamed service"
        host, pid = headers.get("hostname", ""), headers.get("pid", "")
        before = self._services.get(service, {})
        # A stop is sent once, by montage_fit and Dagster, too.
        is_steady = topic in _STEADY or (
            topic == "qc.status" and body["status"] == "GOOD"
        )
        seen: dict[str, str | int] = {"host": host, "pid": pid, "seen_at": int(now)}
        seen["is_steady"] = is_steady or before.get("is_steady", False)
        if before != seen:
            self._services[service] = seen
            self.parts.put("services", dict(self._services))
        if topic == "qc.status":
            self._qc_status(service, body, now)
            return
        self._handlers[topic](body, now)

    def log(self, kind: str, text: str, now: float) -> None:
        """Add a line to the journal."""
        self._journal.add(kind, text, now)
        self.parts.put("journal", self._journal.shown())

    def changes(self, since: int) -> Changes:
        """What has changed after `since`; all where `since` is 0 or of another map."""
        # A page that knows another map, or none, gets all tiles of this one.
        anew = since < self._map_began or since == 0
        parts, version = self.parts.since(since), self.parts.version
        found: Changes = {"version": version, "parts": parts}
        total = (self.parts.get("montage") or {}).get("total_tiles", 0)
        if shown := self.map.shown(since, anew=anew, total=total):
            found["map"] = shown
        return found

    def show_map(self, tile_map: TileMap) -> None:
        """Show another montage from now on."""
        self.map = tile_map
        self.pictures.drop_all("mini/")
        self._map_began = self.parts.bump()
        for tile in tile_map.tiles.values():
            tile.version = self._map_began

    def show_finished(self) -> None:
        """Publish the finished montages after a change from outside."""
        self.parts.put("finished", self.finished.shown())

    def refusal(self, action: str) -> str:
        """Why the action makes no sense now; empty where it does."""
        return str(self.parts.get("actions").get(action, ""))

    def _dated(self, name: str, body: Body, now: float) -> None:
        self.parts.put(name, {**body, "seen_at": round(now, 1)})

    def _device(self, topic: str) -> Callable[[Body, float], None]:
        def receive(body: Body, now: float) -> None:
            before = (self.parts.get(topic) or {}).get("error", "")
            error = body.get("error") or ""
            self._dated(topic, body, now)
            # a device repeats its error with each status: one line is enough
            if error and error != before:
                self.log("error", f"{topic.removesuffix('.status')}: {error}", now)

        return receive

    def _state(self, body: Body, now: float) -> None:
        before = (self.parts.get("state") or {}).get("path", [])
        path = path_of(body["state"])
        self._dated("state", {"path": path}, now)
        if path[:1] != before[:1] and path:
            self.log("state", f"The microscope is in {path[0].lower()}", now)
        self._update_actions()

    def _update_actions(self) -> None:
        state = self.parts.get("state") or {"path": []}
        montage = self.parts.get("montage") or {}
        queue = self.parts.get("queue")
        mode = mode_of("_".join(state["path"]), montage.get("state", ""))
        self.parts.put("mode", mode)
        if mode not in _STOPPABLE:
            self.parts.put("stopping", None)
        to_do = None if queue is None else len(in_queue(queue, *UNFINISHED))
        self.parts.put("actions", refusals(mode, to_do=to_do))

    def _stop_at_end(self, why: str) -> None:
        """The coordinator latches it: it holds until the operator goes on."""
        stoppable = self.parts.get("mode") in _STOPPABLE
        if stoppable and not self.parts.get("stopping"):
            self.parts.put("stopping", {"why": why})

    def _montage(self, body: Body, now: float) -> None:
        before = self.parts.get("montage") or {}
        state, montage_id = body["state"], body["montage_id"]
        same = before.get("montage_id") == montage_id
        if state == "started" and (not same or before.get("state") in _OVER):
            self.show_map(TileMap(montage_id))
        self._dated("montage", body, now)
        was = before.get("state") if same else None
        # The first tile of a montage is no news of its own.
        if state != was and (was, state) != ("started", "in_progress"):
            self.log("error" if state == "error" else "montage", of_montage(body), now)
            is_shown = self.map.acquisition_id and self.map.montage_id == montage_id
            if state in ("cancelled", "error") and is_shown:
                self.finished.ended(
                    self.map.acquisition_id,
                    montage_id=montage_id,
                    tiles=body.get("current_tile") or len(self.map.tiles),
                    outcome=state,
                    reason=body.get("error_message") or "",
                    now=now,
                )
                self.show_finished()
        self._update_actions()

    def _complete(self, body: Body, now: float) -> None:
        self.finished.completed(body, now)
        self.show_finished()

    def _minimaps(self, body: Body, now: float) -> None:
        """Show the fitted montage; its focus is shown by the map of the tiles."""
        version = self.parts.bump()
        # its address holds the version, so that the browser loads it anew
        image = self.pictures.put("minimap", body["montage"]["image"]) and version
        self._dated("minimaps", {"montage_id": body["montage_id"], "image": image}, now)

    def _roi_status(self, body: Body, now: float) -> None:
        text = of_region(body) if body.get("error_message") else ""
        # roi.status is repeated while the region has failed
        if text and not self._journal.ends_with(text):
            self.log("error", text, now)

    def _queue(self, body: Body, now: float) -> None:
        self._dated("queue", body, now)
        self._update_actions()

    def _ordered(self, body: Body, now: float) -> None:
        wanted = [word for word, is_set in body.items() if is_set]
        if not wanted:
            return
        # the coordinator forgets its stops then, and so does the light
        if {"start", "resume", "retry"} & set(wanted):
            self._qc.start_anew()
            self.parts.put("qc", self._qc.shown())
            self.parts.put("stopping", None)
        if body.get("abort_at_end"):
            self._stop_at_end("the operator wants to stop")
        self.log("order", of_order(wanted), now)

    def _qc_status(self, service: str, body: Body, now: float) -> None:
        before = self._qc.shown()
        self._qc.receive(service, body["status"], body.get("reason") or "", now=now)
        after = self._qc.shown()
        self.parts.put("qc", after)
        if body["status"] == "STOP_AT_END":
            self._stop_at_end(body.get("reason") or "quality control requests it")
        if after and (before is None or after["status"] != before["status"]):
            self.log("qc", of_verdict(after), now)

    def _raw(self, body: Body, now: float) -> None:
        self._newest.saved(body)
        if not body["montage_id"]:
            return
        acquisition_id = acquisition_of(body["tile_id"])
        if acquisition_id != self.map.acquisition_id:
            # An empty one was made for this montage when it started.
            if self.map.tiles:
                self.show_map(TileMap(body["montage_id"], acquisition_id))
            self.map.acquisition_id = acquisition_id
            self.map.montage_id = body["montage_id"]
        self.map.imaged(body, self.parts.bump())

    def _tile(
        self, what: Callable[[], Callable[[Body, int], None]]
    ) -> Callable[[Body, float], None]:
        """A handler that notes a figure of a tile, for the map and the newest."""

        def receive(body: Body, now: float) -> None:
            if self._newest.measured(body):
                self.parts.put("newest", self._newest.shown())
            if self._is_shown(body):
                what()(body, self.parts.bump())

        return receive

    def _is_shown(self, body: Body) -> bool:
        if not body["montage_id"]:
            return False
        acquisition_id = acquisition_of(body["tile_id"])
        if not self.map.acquisition_id:
            self.map.acquisition_id = acquisition_id
            self.map.montage_id = body["montage_id"]
        return acquisition_id == self.map.acquisition_id

    def _preview(self, body: Body, now: float) -> None:
        if not self._newest.pictured(body):
            return
        if self.pictures.put("preview", body["image"]):
            self._newest.preview = self.parts.bump()
            self._newest.preview_of = body["tile_id"]
            self.parts.put("newest", self._newest.shown())

    def _mini(self, body: Body, now: float) -> None:
        name = f"mini/{body['row']}/{body['column']}"
        if self._is_shown(body) and self.pictures.put(name, body["image"]):
            self.map.pictured(body, self.parts.bump())

    def _judged(self, body: Body, now: float) -> None:
        if not self._is_shown(body):
            return
        before = self.map.tiles.get((body["row"], body["column"]))
        was = before.passed if before else None
        self.map.judged(body, self.parts.bump())
        # the verdict may come once more, with more of its reasons
        if not body["passed"] and was is not False:
            self.log("tile", of_tile(body), now)

    def _lens(self, body: Body, now: float) -> None:
        # the coefficients are long, and no page shows them
        self._dated("lens", {k: v for k, v in body.items() if k != "transform"}, now)
        self.log("montage", of_lens(body), now)
