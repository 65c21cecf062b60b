"""One montage while it is imaged: which tiles are judged, and what they add up to."""

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, replace

from em_platform.acquisition.frame_paths import retry_of
from em_platform.acquisition.qc.judge import (
    CRITICAL,
    EXPLAINS,
    Cell,
    Fault,
    TileFacts,
    Usual,
    find_faults,
)
from em_platform.acquisition.qc.parts import Part, Pending
from em_platform.acquisition.qc.verdict import GOOD, Status, Verdict
from em_platform.acquisition.recorder.events import INCOMPLETE
from em_platform.config import QcSettings, QualitySettings
from em_platform.messaging.topics import Body
from em_platform.stitching.tile_rules import contrast_rule

_NAMED = 3  # The reason stands in one line of the operator's page
_PATIENCE = 1 / 3  # of the wait for a tile: what was on its way has come by then


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A tile that has its verdict; `counted` faults add up to a stop."""

    number: int
    tile_id: str
    cell: Cell
    faults: tuple[Fault, ...]
    counted: bool = True

    def fault(self, kind: str) -> Fault | None:
        """Its fault of one kind."""
        return next((fault for fault in self.faults if fault.kind == kind), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict on one tile: the fields of `qc.tile`, and what the scope is to do."""

    tile_id: str
    fields: Body
    faults: tuple[str, ...]
    verdict: Verdict


class MontageJudge:
    """Collects the parts of each tile of one acquisition and judges it once.

    Tiles are judged in the order in which they were imaged, so that a verdict is a
    function of the tiles before it and not of when their messages came. Knows no bus
    and no clock: times are given in monotonic seconds.
    """

    def __init__(
        self, acquisition_id: str, *, settings: QcSettings, limits: QualitySettings
    ) -> None:
        self.acquisition_id = acquisition_id
        self.is_complete = False
        self.montage_ids: set[str] = set()
        self.pending: dict[str, Pending] = {}
        self.judged: dict[str, Judged] = {}
        # Judged without all their figures: judged again when these come.
        self.late: dict[str, Pending] = {}
        self._number = 0
        self._settings, self._limits = settings, limits
        self._in_order: list[tuple[int, str]] = []
        self._from = 0
        self._received_s = 0.0
        self._newest_whole = -1
        self._focus: list[float] = []
        self._sharpest = 0.0
        self._mean: list[float] = []
        self._plain: set[Cell] = set()

    def is_settled(self, tile_id: str) -> bool:
        """Whether a tile has a verdict that stands, whatever comes about it."""
        is_open = tile_id in self.pending or tile_id in self.late
        return tile_id in self.judged and not is_open

    def announce(self, fields: Body, now_s: float) -> bool:
        """Note that a tile was imaged; whether that was news."""
        if fields["tile_id"] in self.judged:
            return False
        pending = self._pending(fields, now_s)
        known, pending.is_announced = pending.is_announced, True
        pending.fields = fields
        return not known

    def expect(self, fields: Body, now_s: float) -> bool:
        """Note a tile that should be there; whether nothing of it had come."""
        tile_id = fields["tile_id"]
        if tile_id in self.judged or tile_id in self.pending:
            return False
        self._pending(fields, now_s)
        return True

    def take(self, fields: Body, part: Part, now_s: float) -> Pending | None:
        """Add a part to its tile; None where it is judged or has that already.

        A tile that was judged without it waits for a new verdict when it has all.
        """
        tile_id = fields["tile_id"]
        if self.is_settled(tile_id):
            return None
        pending = self.late.get(tile_id) or self._pending(fields, now_s)
        # The first of each kind counts: what comes twice changes no verdict.
        new = {name: part[name] for name in part.keys() - pending.part.keys()}
        if not new:
            return None
        pending.part |= new
        pending.fields = fields
        if pending.is_whole:
            pending.whole_s = now_s
            self._newest_whole = max(self._newest_whole, pending.number)
        # A frame that cannot be read gets no figures: its next verdict is the last.
        if tile_id in self.late and (pending.is_whole or pending.is_unreadable):
            self.pending[tile_id] = self.late.pop(tile_id)
        if "std" in new and contrast_rule(self._limits).fails(new["std"]):
            self._plain.add(pending.cell)
        return pending

    def _pending(self, fields: Body, now_s: float) -> Pending:
        tile_id = fields["tile_id"]
        self._received_s = now_s
        self.montage_ids.add(fields["montage_id"])
        if tile_id not in self.pending:
            # Frames are announced in the order of imaging.
            number, self._number = self._number, self._number + 1
            self.pending[tile_id] = Pending(fields=fields, number=number, since_s=now_s)
        return self.pending[tile_id]

    def missed(self, now_s: float) -> list[Pending]:
        """Tiles of which a part may have been published before we listened."""
        patience_s = _PATIENCE * self._settings.tile_wait_s
        return [
            pending
            for pending in self.pending.values()
            if not pending.is_announced and now_s - pending.since_s > patience_s
        ]

    def doubt_all(self) -> None:
        """Messages may have been missed: what does not come counts for nothing."""
        for pending in self.pending.values():
            pending.is_announced = False

    def ready(self, now_s: float) -> list[str]:
        """Tiles to judge now, in the order of imaging; each waits for the former.

        Only for a while: a stop must not wait for a frame that cannot be read.
        """
        patience_s = _PATIENCE * self._settings.tile_wait_s
        found = []
        is_first = True
        # Those that are judged again were put back behind the others.
        in_order = sorted(self.pending.items(), key=lambda each: each[1].number)
        for tile_id, pending in in_order:
            if pending.whole_s is None:
                # An unreadable frame gets no figures: it holds no later tile up.
                is_first = is_first and pending.is_unreadable
            elif is_first or now_s - pending.whole_s > patience_s:
                found.append(tile_id)
        return found

    def overdue(self, now_s: float) -> list[str]:
        """Tiles that wait in vain; a pipeline that is merely slow is waited for.

        Tiles imaged later have had all their figures for a while, or the montage is
        complete and nothing more comes of it.
        """
        wait_s = self._settings.tile_wait_s
        is_over = self.is_complete and now_s - self._received_s > wait_s
        found = []
        for tile_id, pending in self.pending.items():
            if pending.number < self._newest_whole and pending.passed_s is None:
                pending.passed_s = now_s
            passed_s = pending.passed_s
            if is_over or (passed_s is not None and now_s - passed_s > wait_s):
                found.append(tile_id)
        return found

    def judge(self, tile_id: str) -> Judgement:
        """The verdict on a pending tile with what is there."""
        pending = self.pending.pop(tile_id)
        facts = pending.facts()
        faults = find_faults(
            facts, self._limits, usual=self._usual(), plain=self._plain
        )
        if not (pending.is_announced and pending.is_unreadable):
            faults = tuple(_doubted(fault) for fault in faults)
        self._remember(pending, faults)
        judged = self.judged[tile_id]
        scopes = {fault.kind: self._scope(fault.kind, judged) for fault in faults}
        fields = {
            **pending.fields,
            "passed": not faults,
            "faults": [_as_message(fault, scopes[fault.kind]) for fault in faults],
        }
        verdict = GOOD
        for kind, scope in scopes.items():
            verdict = verdict.worse(self._verdict(kind, scope))
        return Judgement(
            tile_id=tile_id,
            fields=fields,
            faults=tuple(f"{fault.kind} ({fault.figures})" for fault in faults),
            verdict=verdict,
        )

    def adopt(self, tile_id: str, published: Body) -> Verdict:
        """Count a pending tile as judged, with the faults that were published.

        `published` maps each fault's kind to its `severity`, `confidence` and
        `metrics`. The words of a fault are not published: they are found again.
        """
        # Of a tile that is judged again the first verdict does not count.
        if tile_id in self.judged and INCOMPLETE in published:
            return GOOD
        pending = self.late.pop(tile_id, None) or self.pending.pop(tile_id)
        found = find_faults(
            pending.facts(), self._limits, usual=self._usual(), plain=self._plain
        )
        words = {fault.kind: fault for fault in found}
        faults = tuple(
            replace(words[kind], **fields) if kind in words else _unworded(kind, fields)
            for kind, fields in published.items()
        )
        self._remember(pending, faults)
        verdict = GOOD
        for fault in faults:
            scope = self._scope(fault.kind, self.judged[tile_id])
            verdict = verdict.worse(self._verdict(fault.kind, scope))
        return verdict

    def _remember(self, pending: Pending, faults: tuple[Fault, ...]) -> None:
        """Count a judged tile among those that say what is usual and persistent.

        One of which something has not come is no sign of anything: it is not counted,
        and judged again when that comes.
        """
        tile_id = pending.fields["tile_id"]
        doubted = any(f.kind == INCOMPLETE and f.confidence < 1.0 for f in faults)
        judged = Judged(
            number=pending.number,
            tile_id=tile_id,
            cell=pending.cell,
            faults=faults,
            counted=not doubted,
        )
        if tile_id not in self.judged:
            bisect.insort(self._in_order, (judged.number, tile_id))
        self.judged[tile_id] = judged
        if doubted:
            # What came while it was published is all that it waits for.
            waiting = self.pending if pending.is_whole else self.late
            waiting[tile_id] = pending
            return
        self._newest_whole = max(self._newest_whole, judged.number)
        if any(fault.kind in EXPLAINS for fault in judged.faults):
            self._plain.add(judged.cell)
        elif retry_of(tile_id):
            self._plain.discard(judged.cell)  # imaged again, and good
        self._note_usual(pending.facts())

    def _note_usual(self, facts: TileFacts) -> None:
        if facts.std is None or contrast_rule(self._limits).fails(facts.std):
            return
        if facts.focus is not None:
            # Kept in order: medians are asked for with each verdict.
            bisect.insort(self._focus, facts.focus)
            if len(self._focus) >= self._settings.window:
                # A focus that drifts slowly would else lower its own limit.
                self._sharpest = max(self._sharpest, _middle(self._focus))
        if facts.mean is not None:
            bisect.insort(self._mean, facts.mean)

    def forgive(self) -> None:
        """Count from the tiles that follow: the operator has seen the others."""
        self._from = self._number

    def _usual(self) -> Usual:
        """Of the focus the best that was usual: a drift must not lower its limit."""
        focus = max(self._sharpest, _middle(self._focus))
        return Usual(focus=focus, mean=_middle(self._mean), tiles=len(self._mean))

    def _last(self, count: int) -> list[Judged]:
        """The tiles imaged last that count, oldest first."""
        found: list[Judged] = []
        for number, tile_id in reversed(self._in_order):
            if number < self._from or len(found) == count:
                break
            if self.judged[tile_id].counted:
                found.append(self.judged[tile_id])
        return found[::-1]

    def _scope(self, kind: str, judged: Judged) -> str:
        """How far a fault of `judged` reaches, given the tiles around it."""
        if not judged.counted:
            return "transient"
        if kind in CRITICAL and self._is_run(kind, judged):
            return "critical"
        if kind not in self._settings.harmless:
            last = self._last(self._settings.window)
            faulty = sum(each.fault(kind) is not None for each in last)
            if judged in last and faulty >= self._settings.max_faulty:
                return "persistent"
        return "transient"

    def _is_run(self, kind: str, judged: Judged) -> bool:
        """Whether so many tiles in a row, `judged` among them, have the fault."""
        at = bisect.bisect_left(self._in_order, (judged.number, judged.tile_id))
        run = 1
        for step in (-1, 1):
            near = at + step
            while 0 <= near < len(self._in_order):
                number, tile_id = self._in_order[near]
                if number < self._from or self.judged[tile_id].fault(kind) is None:
                    break
                run, near = run + 1, near + step
        return run >= self._settings.critical_tiles

    def _verdict(self, kind: str, scope: str) -> Verdict:
        if scope == "transient":
            return GOOD
        last = self._last(self._settings.window)
        faulty = [judged for judged in last if judged.fault(kind) is not None]
        worst = max(
            (each.fault(kind) for each in faulty),
            key=lambda fault: fault.severity if fault else 0.0,
        )
        if worst is None:  # no tile of the window has it
            return GOOD
        tiles = _named(each.tile_id for each in reversed(faulty))
        reason = (
            f"Montage {self.acquisition_id}: {len(faulty)} of the last {len(last)} "
            f"tiles are {worst.what} ({tiles}; worst: {worst.figures}); {worst.advice}."
        )
        status = Status.STOP_NOW if scope == "critical" else Status.STOP_AT_END
        return Verdict(status=status, reason=reason)


def _middle(ordered: list[float]) -> float:
    """The median of an ordered list; 0 of an empty one."""
    if not ordered:
        return 0.0
    half = len(ordered) // 2
    # `~half` counts from the end: of an odd number it is the same one.
    return (ordered[half] + ordered[~half]) / 2


def _doubted(fault: Fault) -> Fault:
    """What did not come may be late, or was published before we listened."""
    # Below 1: by that all know that another verdict may come (`is_preliminary`).
    return replace(fault, confidence=0.3) if fault.kind == INCOMPLETE else fault


def _unworded(kind: str, fields: Body) -> Fault:
    """A fault of which the figures have not come: as far as its message has it."""
    return Fault(
        kind=kind,
        what=kind.replace("_", " "),
        figures="as published",
        advice="look at the tile",
        **fields,
    )


def _as_message(fault: Fault, scope: str) -> Body:
    return {
        "fault_type": fault.kind,
        "severity": min(1.0, max(0.0, fault.severity)),
        "confidence": min(1.0, max(0.0, fault.confidence)),
        "scope": scope,
        "metrics": dict(fault.metrics),
    }


def _named(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _NAMED
    return ", ".join(listed[:_NAMED]) + (f" and {more} more" if more > 0 else "")
