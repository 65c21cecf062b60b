"""The broker's side of one connection: login, frames, heart-beats, the end."""

import asyncio
import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from em_platform.messaging.commands import ClientQueue, Commands, name_of, refusal
from em_platform.messaging.frames import (
    VERSIONS,
    Counters,
    Frame,
    FrameError,
    FrameReader,
    Rules,
    write_frame,
)
from em_platform.messaging.subscriptions import Exchange

log = logging.getLogger(__name__)

_CLOSE_DELAY_S = 0.5  # closed at once, a reset could overtake the ERROR frame
_ABORT_DELAY_S = 5.0  # for a client that never reads what is left


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerState:
    """What all sessions of one broker share."""

    rules: Rules
    exchange: Exchange = field(default_factory=Exchange)
    counters: Counters = field(default_factory=Counters)
    sessions: dict["Session", None] = field(default_factory=dict)
    # those of them that have not logged in, the oldest first
    strangers: dict["Session", None] = field(default_factory=dict)
    unflushed: dict["Session", None] = field(default_factory=dict)

    def flush(self) -> None:
        """Write to each client what was put into its queue since the last time."""
        while self.unflushed:
            session, _ = self.unflushed.popitem()
            session.queue.flush()

    def make_room(self) -> bool:
        """Whether one more client may stay; where all is full a stranger leaves for it.

        Otherwise connections that never log in would keep out those that do.
        """
        if len(self.sessions) < self.rules.connections:
            return True
        oldest = next(iter(self.strangers), None)
        if oldest is not None:
            oldest.drop("it has not logged in, and others wait for its place")
        return oldest is not None

    def bound_unfinished(self) -> None:
        """Refuse those with the largest unfinished frames where all are too much.

        A single one is within the limit of a frame.
        """
        limit = self.rules.unfinished_bytes
        while self.counters.unfinished_bytes > limit:
            largest = max(self.sessions, key=lambda session: session.unfinished_bytes)
            largest.refuse(
                f"{largest.unfinished_bytes} bytes of a frame came without an end, and "
                f"those of all clients are more than {limit}; send it again later",
                {},
            )


class Session(asyncio.Protocol):
    """One connection to the broker."""

    def __init__(self, state: BrokerState) -> None:
        self.version = "1.2"
        rules = state.rules
        self.queue = ClientQueue(rules.queue_limit, 4 * rules.frame_limit_bytes)
        self.unfinished_bytes = 0
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(rules.frame_limit_bytes, logged_in=False)
        self._commands = Commands(
            self, state.exchange, rules=rules, counters=state.counters
        )
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._name = "an unknown client"
        self._logged_in = False
        self._ending = False
        self._received_at = self._loop.time()
        self._expected_s = 0.0
        self._beat_s = 0.0
        self._reported_drops = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"a stream was expected, not {transport}")
        self._transport = transport
        host, port, *_ = transport.get_extra_info("peername") or ("?", 0)
        self._name = f"client {host}:{port}"
        self.queue.open(transport, self._loop.time)
        has_room = self._state.make_room()
        self._state.sessions[self] = None
        if not has_room:
            count = self._state.rules.connections
            self.refuse(f"{count} clients are connected, no more are taken", {})
            transport.close()  # at once: many that come need what each one holds
            return
        self._state.strangers[self] = None
        self._call_later(
            self._state.rules.login_s,
            lambda: self.refuse("no whole CONNECT frame came in time", {}),
        )

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""
        if self._ending:
            return
        self._received_at = self._loop.time()
        try:
            self._reader.feed(data)
            while not self._ending and (frame := self._reader.next()) is not None:
                self._take(frame)
        except FrameError as error:
            self.refuse(str(error), {"receipt-id": error.receipt})
        self._count_unfinished(self._reader.buffered_bytes)
        self._state.bound_unfinished()
        self._state.flush()
        if self.queue.is_stuck:
            self.drop("it does not read the answers to its own frames")

    def pause_writing(self) -> None:
        """The client reads more slowly than it is sent to."""
        self.queue.paused = True

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.queue.paused = False
        self.queue.flush()
        self._commands.pump()
        self._state.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._leave()
        self._state.sessions.pop(self, None)
        self._state.unflushed.pop(self, None)
        self._state.counters.delivered += self.queue.delivered
        self._state.counters.dropped += self.queue.dropped
        self._state.flush()
        log.info("%s left", self._name)

    def is_free(self) -> bool:
        """Whether it takes a message of a queue now."""
        return not self.queue.paused and not self._ending

    def deliver(self, head: bytes, body: bytes) -> None:
        """Queue one message for this client."""
        self.queue.message(head, body)
        self._state.unflushed[self] = None

    def leave_now(self) -> None:
        """Close; what is already written still arrives."""
        self._ending = True
        self._leave()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close without waiting for a client that does not read."""
        self._ending = True
        if self._transport is not None:
            self._transport.abort()

    def _take(self, frame: Frame) -> None:
        if not self._logged_in:
            self._log_in(frame)
            return
        if frame.command in (b"CONNECT", b"STOMP"):
            raise refusal(frame, "a client connects only once")
        receipt = name_of(frame, "receipt")
        # its receipt is answered below, then the connection ends
        if frame.command != b"DISCONNECT":
            self._commands.apply(frame)
        if receipt:
            self._answer(b"RECEIPT", {"receipt-id": receipt})
        if frame.command == b"DISCONNECT":
            self._end()

    def _log_in(self, frame: Frame) -> None:
        rules = self._state.rules
        if frame.command not in (b"CONNECT", b"STOMP"):
            raise refusal(frame, "CONNECT was expected first")
        offered = frame.headers.get("accept-version", "1.0")
        common = [version for version in VERSIONS if version in offered.split(",")]
        if not common:
            self.refuse(
                f"STOMP {offered[:40]} is not spoken here, {', '.join(VERSIONS)} are",
                {"version": ",".join(VERSIONS)},
            )
            return
        login, passcode = (frame.headers.get(x, "") for x in ("login", "passcode"))
        # Compared in a time that does not depend on how much of it is right.
        if rules.username and not (
            hmac.compare_digest(login.encode(), rules.username.encode())
            and hmac.compare_digest(passcode.encode(), rules.password.encode())
        ):
            self.refuse(f"login {login[:40]!r} or its passcode is wrong", {})
            return
        self._welcome(common[-1], frame.headers.get("heart-beat", "0,0"))

    def _welcome(self, version: str, heart_beat: str) -> None:
        rules = self._state.rules
        self.version = self._reader.version = version
        self._logged_in = self._reader.logged_in = True
        self._state.strangers.pop(self, None)
        self._state.counters.clients += 1
        ours_ms = round(rules.heart_beat_s * 1000)
        self._agree_on_heart_beats(heart_beat, ours_ms)
        answer = {
            "version": version,
            "server": rules.server,
            "session": f"s{self._state.counters.clients}",
        }
        if version != "1.0":
            answer["heart-beat"] = f"{ours_ms},{ours_ms}"
        self._answer(b"CONNECTED", answer)
        log.info("%s connected, STOMP %s", self._name, version)

    def _agree_on_heart_beats(self, header: str, ours_ms: int) -> None:
        """Each side announces what it can and wants; the slower counts (STOMP 1.2)."""
        can, _, wants = header.replace(" ", "").partition(",")
        can_ms, wants_ms = (int(x[:9]) if x.isdecimal() else 0 for x in (can, wants))
        if self._timer is not None:
            self._timer.cancel()
        if can_ms and ours_ms:
            self._expected_s = max(can_ms, ours_ms) / 1000
        if wants_ms and ours_ms:
            self._beat_s = max(wants_ms, ours_ms) / 1000
        periods = [period for period in (self._expected_s, self._beat_s) if period]
        if periods:
            self._beat(min(periods) / 2)

    def _beat(self, step_s: float) -> None:
        silent_s = self._loop.time() - self._received_at
        # Twice the promise: RabbitMQ and ActiveMQ give a client the same grace.
        if self._expected_s and silent_s > 2 * self._expected_s:
            self.drop(
                f"silent for {silent_s:.1f} s, a heart-beat every "
                f"{self._expected_s:g} s was promised"
            )
            return
        unsent_s = self._loop.time() - self.queue.written_at
        if self._beat_s and unsent_s >= self._beat_s / 2:
            self.queue.beat()
        self._report_drops()
        # half a period, so that no promise is late by a whole one
        self._timer = self._loop.call_later(step_s, self._beat, step_s)

    def _report_drops(self) -> None:
        dropped = self.queue.dropped - self._reported_drops
        if dropped:
            self._reported_drops += dropped
            log.warning(
                "broker: %s reads too slowly: its oldest %d messages were dropped, "
                "%d wait; see broker.client_queue_limit",
                self._name,
                dropped,
                len(self.queue),
            )

    def _answer(self, command: bytes, headers: dict[str, str]) -> None:
        self.queue.answer(write_frame(Frame(command, headers), self.version))
        self._state.unflushed[self] = None

    def refuse(self, sentence: str, headers: dict[str, str]) -> None:
        """Give the reason in an ERROR frame and in the log, then close."""
        self._state.counters.refused += 1
        log.warning("broker: %s was refused: %s", self._name, sentence)
        fields = {"message": sentence, "content-type": "text/plain"}
        fields |= {name: value for name, value in headers.items() if value}
        frame = Frame(b"ERROR", fields, f"{sentence}\n".encode())
        self.queue.answer(write_frame(frame, self.version))
        self._end()

    def _end(self) -> None:
        """Take nothing more, leave time to read the last answer, then close."""
        self._ending = True
        self._leave()
        self.queue.flush()
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        # TLS cannot: it is closed at once
        if transport.can_write_eof():
            transport.write_eof()
        self._call_later(_CLOSE_DELAY_S, self._close)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._call_later(_ABORT_DELAY_S, self._transport.abort)

    def drop(self, why: str) -> None:
        """Give the reason in the log, and close at once."""
        self._ending = True
        self._state.counters.refused += 1
        log.warning("broker: %s was dropped: %s", self._name, why)
        self._leave()
        self.abort()

    def _leave(self) -> None:
        self._report_drops()
        self._commands.leave()
        self._state.strangers.pop(self, None)
        self._reader.clear()
        self._count_unfinished(0)

    def _count_unfinished(self, size: int) -> None:
        self._state.counters.unfinished_bytes += size - self.unfinished_bytes
        self.unfinished_bytes = size

    def _call_later(self, delay_s: float, act: Callable[[], object]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, act)
