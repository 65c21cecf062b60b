"""The board shared between threads, who has control, and the bus for commands."""

import hmac
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict

from em_platform.errors import ControlRefused
from em_platform.messaging.bus import Bus
from em_platform.operator.board import Board, Changes
from em_platform.operator.parts import Picture
from em_platform.operator.tile_map import MarkFields


class Holder(TypedDict):
    """Who has control, nobody where it is empty, and since when (Unix seconds)."""

    holder: str
    since: float


class Control:
    """The one who may act; kept alive by a heartbeat, given up or taken over.

    Times are Unix seconds. Safe to use from several threads.
    """

    def __init__(
        self,
        timeout_s: float,
        *,
        clock: Callable[[], float] = time.time,
        changed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._changed = changed
        self._lock = threading.RLock()  # reentrant: `take` and `check` call `expire`
        self._holder = ""
        self._token = ""
        self._since = 0.0
        self._seen_at = 0.0

    def take(self, name: str, *, take_over: bool = False) -> str:
        """Give control to `name`, and the token by which it is proven.

        Raises
        ------
        ControlRefused
            Another operator has it, and `take_over` was not asked for.
        """
        with self._lock:
            self.expire()
            if self._holder and not take_over:
                raise ControlRefused(
                    f"control: {self._holder} has it, it was expected to be free; ask "
                    "them to release it, or take it over",
                    holder=self._holder,
                )
            former, self._holder = self._holder, name
            # a new one: the former holder's page can command no more
            self._token = secrets.token_urlsafe(24)  # 192 bits: nobody guesses them
            self._since = self._seen_at = self._clock()
            self._changed(
                f"{name} took control over from {former}"
                if former
                else f"{name} has control"
            )
            return self._token

    def check(self, token: str) -> str:
        """The name of the holder that shows `token`; it counts as a heartbeat.

        Raises
        ------
        ControlRefused
            The token is not the holder's.
        """
        with self._lock:
            self.expire()
            if not self._holder:
                raise ControlRefused(
                    "control: it is free, and this needs it; take control first"
                )
            # in a time that does not depend on how much of it is right
            if not hmac.compare_digest(token.encode(), self._token.encode()):
                raise ControlRefused(
                    f"control: {self._holder} has it, this page has not; take control "
                    "first",
                    holder=self._holder,
                )
            self._seen_at = self._clock()
            return self._holder

    def release(self, token: str) -> None:
        """Give control up; ControlRefused where `token` does not hold it."""
        with self._lock:
            self._end(f"{self.check(token)} released control")

    def expire(self) -> None:
        """Take control from a holder whose page was silent for too long."""
        with self._lock:
            silent_s = self._clock() - self._seen_at
            if self._holder and silent_s > self._timeout_s:
                self._end(
                    f"{self._holder} lost control: their page was silent for "
                    f"{silent_s:.0f} s"
                )

    def shown(self) -> Holder:
        """What all may know: the holder's name and since when, never the token."""
        with self._lock:
            return {"holder": self._holder, "since": self._since}

    def _end(self, sentence: str) -> None:
        self._holder = self._token = ""
        self._since = self._clock()
        self._changed(sentence)


_CONFIRM_S = 3.0  # for the broker's receipt; then the page says that it did not come


class SharedBoard:
    """What the HTTP side and the bus side share; safe to use from several threads."""

    def __init__(
        self,
        bus: Bus,
        *,
        control_timeout_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lock = threading.RLock()
        self._board = Board()
        self._bus = bus
        self._clock = clock
        self.control = Control(
            control_timeout_s, clock=clock, changed=self._control_changed
        )
        self._board.parts.put("control", self.control.shown())

    @property
    def topics(self) -> tuple[str, ...]:
        """All that the board wants to receive."""
        return self._board.topics

    def now(self) -> float:
        """Unix time, as all times of the board."""
        return self._clock()

    def receive(self, message: Any, headers: Mapping[str, str]) -> None:
        """Note one message of the bus."""
        body = message.model_dump(mode="json")
        with self._lock:
            self._board.receive(headers["topic"], body, headers, self._clock())

    @contextmanager
    def locked(self) -> Iterator[Board]:
        """The board, for this thread alone while the block lasts."""
        with self._lock:
            yield self._board

    def changes(self, since: int) -> Changes | None:
        """What is new after version `since`; None where nothing is."""
        # Without the lock: each page asks ten times a second, and handlers need it.
        if self._board.parts.version == since:
            return None
        with self._lock:
            return {**self._board.changes(since), "now": self._clock()}

    def picture(self, name: str) -> Picture | None:
        """One of the pictures that came on the bus."""
        with self._lock:
            return self._board.pictures.get(name)

    def shown_tile(self, row: int, column: int) -> tuple[str, str] | None:
        """Montage id and tile id of the tile that the map shows there."""
        with self._lock:
            shown = self._board.map
            tile = shown.tiles.get((row, column))
            return None if tile is None else (shown.montage_id, tile.tile_id)

    def tile(self, row: int, column: int) -> MarkFields | None:
        """All that is known of one tile."""
        with self._lock:
            tile = self._board.map.tiles.get((row, column))
            return None if tile is None else tile.in_full()

    def refuse_useless(self, action: str) -> None:
        """ControlRefused where `action` makes no sense in the present state."""
        with self._lock:
            why = self._board.refusal(action)
        if why:
            raise ControlRefused(f"{action}: {why}; nothing was sent", senseless=True)

    def log(self, kind: str, text: str) -> None:
        """Add a line to the journal."""
        with self._lock:
            self._board.log(kind, text, self._clock())

    def send(self, topic: str, **fields: Any) -> None:
        """Publish, and return when the broker has it.

        Raises
        ------
        MessageRejected
            The fields do not fit the topic.
        BrokerUnavailable
            The broker did not take it in time.
        """
        self._bus.publish(topic, **fields)
        self._bus.flush(_CONFIRM_S)

    def _control_changed(self, sentence: str) -> None:
        with self._lock:
            self._board.parts.put("control", self.control.shown())
            self._board.log("control", sentence, self._clock())
