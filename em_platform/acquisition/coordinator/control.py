"""What the operator, quality control and other services send the coordinator."""

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from em_platform.acquisition.coordinator.intake import take_roi
from em_platform.acquisition.coordinator.requirements import STATES
from em_platform.acquisition.coordinator.roi_queue import removed, reordered
from em_platform.acquisition.machines.machine import Machine, on_message

log = logging.getLogger(__name__)

_ECHO_S = 1.0
"""Quality control repeats its verdict each second; one published before the start
and comes once more within this time was sent before it received the start."""

_REMEMBERED = 1000  # sendings; an outage holds back far fewer commands

Headers = Mapping[str, str]


class Control(Machine):
    """The part of the coordinator's root that listens."""

    def __init__(self, **options: Any) -> None:
        self._seen: deque[tuple[Any, ...]] = deque(maxlen=_REMEMBERED)
        self._setups: deque[str] = deque()
        # The newest verdict, and that of the last start: its echo stops nothing.
        self._verdict: tuple[str, str] = ("GOOD", "")
        self._echo: tuple[str, str] = ("GOOD", "")
        self._went_on_s = 0.0
        super().__init__(**options)

    # --- where it is ---

    def is_imaging(self) -> bool:
        """Whether a session is under way, be it at rest."""
        return bool(self.state.startswith("Acquisition"))

    def rests(self) -> bool:
        """Whether it waits for the operator: paused, failed or stopped."""
        return bool(self.state.rpartition("_")[2] in ("Paused", "Failure"))

    # --- the operator ---

    @on_message("ui.run", include_headers=True)
    def _on_run(self, message: Any, headers: Headers) -> None:
        if self._is_repeated(headers):
            return
        # Where one message sets several, what spares the specimen comes first.
        for name in (
            "abort_now",
            "cancel",
            "abort_at_end",
            "pause",
            "resume",
            "retry",
            "start",
        ):
            if getattr(message, name):
                log.info("coordinator: the operator requests %s", name)
                getattr(self, f"run_{name}")()

    def run_start(self) -> None:
        """Begin a session, or resume one that rests."""
        if self.rests():
            self.go_on()
        elif not self.is_imaging() and self.session.registry.has_work():
            self._forget_stops()
            self.session.errors = 0
            self.session.pause_wanted = False
            self.start()
        elif not self.is_imaging():
            log.warning("coordinator: nothing is in the queue; create a roi first")

    def run_pause(self) -> None:
        """Rest after the tile, or the calibration, that is being made."""
        # at rest already a pause would hold up the resume
        if self.is_imaging() and not self.rests():
            self.session.pause_wanted = True

    def run_resume(self) -> None:
        """Go on after a rest; take back a pause that has not begun."""
        if self.rests():
            self.go_on()
        self.session.pause_wanted = False

    def run_retry(self) -> None:
        """Try again what has failed."""
        if self.rests():
            self.go_on()

    def run_cancel(self) -> None:
        """Leave a failure, a rest or a routine for the preview."""
        if not self.is_imaging():
            self.cancel()
        elif self.rests():
            self.session.given_up("the operator cancelled it")
            self.leave()
        else:
            log.warning("coordinator: nothing rests or has failed; use abort_now")

    def run_abort_now(self) -> None:
        """Stop at once and give up the region that is imaged."""
        if self.is_imaging():
            self.session.spare_specimen()
            self.session.given_up("the operator aborted it")
            self.leave()
        else:
            # what waits for its turn would begin as soon as this one is left
            self._setups.clear()
            self.cancel()

    def run_abort_at_end(self) -> None:
        """Stop when the montage is complete."""
        if self.is_imaging():
            self.session.stop_at_end = "the operator wants to stop"

    def go_on(self) -> None:
        """Leave a rest or a failure."""
        self._forget_stops()
        if self.is_imaging():
            self.session.going_on()
            state = self.state
            imaging = self.session.imaging
            begins_anew = state.endswith("_Montage_Failure")  # then Begin publishes it
            if "_Montage_" in state and not begins_anew and imaging is not None:
                imaging.rested()
                self.session.publisher.montage("resumed", imaging)
        self.resume()

    @on_message("ui.setup", include_headers=True)
    def _on_setup(self, message: Any, headers: Headers) -> None:
        if self._is_repeated(headers):
            return
        wanted = [name for name, asked in message.model_dump().items() if asked]
        if self.is_imaging() or self.session.registry.state.mode != "preview":
            log.warning("coordinator: a session is under way, %s is not done", wanted)
            return
        # known ones wait in order; the sentence names what there is
        for name in wanted:
            if name == "lens_correction":
                self._setups.append("doLensCorrection")
            elif name in self.session.requirements.available:
                self._setups.append(f"do{STATES[name]}")
            else:
                known = ", ".join(sorted(self.session.requirements.available))
                sentence = (
                    f"coordinator: there is no routine for {name}, one of {known} or "
                    "lens_correction was expected; ask for one of these"
                )
                self.session.preview_failed(sentence)
        self.next_setup()

    def next_setup(self) -> None:
        """Begin the next routine that the operator asked for, when none runs."""
        if self._setups and self.state == "Preview_UpdateImage_Wait":
            getattr(self, self._setups.popleft())()

    # --- the queue ---

    @on_message("roi.create", include_headers=True)
    def _on_create(self, message: Any, headers: Headers) -> None:
        take_roi(self.session, message.model_dump(mode="json"), headers)

    @on_message("roi.queue.update")
    def _on_update(self, message: Any) -> None:
        registry = self.session.registry
        queue = removed(registry.state.queue, message.remove or ())
        if message.reorder:
            queue = reordered(queue, message.reorder)
        registry.change(queue=queue)
        self.session.publisher.queue(registry.state)

    @on_message("roi.load", include_headers=True)
    def _on_load(self, message: Any, headers: Headers) -> None:
        if not self._is_repeated(headers):
            self.load(message)
            # while imaging the aperture is that of the region under the beam
            if message.aperture_id is not None and not self.is_imaging():
                self.session.preview_aperture = message.aperture_id
                self._setups.append("doChangeAperture")
                self.next_setup()

    # --- verdicts and calibrations ---

    @on_message("qc.status")
    def _on_qc(self, message: Any) -> None:
        verdict = (str(message.status), message.reason or "")
        # in any state: the next start must know which verdict is an echo
        self._verdict = verdict
        is_late = time.monotonic() - self._went_on_s < _ECHO_S
        if verdict[0] == "GOOD" or (is_late and verdict == self._echo):
            return
        if not self.is_imaging():
            return
        # it is repeated each second: stopped once is enough
        if verdict[0] == "STOP_NOW" and "_Stopped_" not in self.state:
            self.session.stop_now = verdict[1] or "quality control requests it"
            self.halt()
        elif verdict[0] == "STOP_AT_END" and not self.session.stop_at_end:
            self.session.stop_at_end = verdict[1] or "quality control requests it"

    @on_message("qc.tile")
    def _on_verdict(self, message: Any) -> None:
        self.session.judged(message)

    @on_message("lens_correction.setup")
    def _on_lens_setup(self, message: Any) -> None:
        self.session.lens.set_up(message)

    @on_message("calibration.resolution")
    def _on_resolution(self, message: Any) -> None:
        self.session.optics.note_scales(message)

    @on_message("calibration.centroid")
    def _on_centroid(self, message: Any) -> None:
        self.session.optics.note_centroid(message)

    @on_message("tile.statistics.min_max_mean")
    def _on_mean(self, message: Any) -> None:
        self.session.beam_mean = float(message.mean)

    # --- what is remembered ---

    def _forget_stops(self) -> None:
        """Ignore the stops that quality control published until now."""
        self.session.stop_now = self.session.stop_at_end = ""
        self._echo = self._verdict
        self._went_on_s = time.monotonic()

    def _is_repeated(self, headers: Headers) -> bool:
        """Whether the same sending came before, as it may after an outage."""
        sending = sending_of(headers)
        if sending in self._seen:
            return True
        # without these headers nothing identifies it: each one counts
        if any(sending):
            self._seen.append(sending)
        return False


def sending_of(headers: Headers) -> tuple[str | None, ...]:
    """Identifies one sending of a message: a repeat has the same."""
    return tuple(headers.get(name) for name in ("source", "sent_at", "sequence"))
