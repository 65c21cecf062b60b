"""How a session of the live microscope went: what was lost, how fast, how soon judged.

Pure: `session_log.SessionLog` collects what this reads.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from em_platform.config import AcquisitionSettings
from em_platform.model import Model

PER_TILE = ("tile.raw", "tile.processed", "tile.matches", "qc.tile")
"""Topics on which each tile of a montage is published once."""


class Published(Model):
    """What a real microscope did."""

    tiles_per_s: float = 3.07
    mpix_per_s: float = 93.0
    source: str = (
        "TEMCA2, 2018-12-10: 2772 tiles of 5504 x 5504 px in 902.5 s, from the times "
        "in its TileQC metafile (AllenInstitute/TileQC)"
    )


class MontageReport(Model):
    """One montage; `seconds` from its start to its end, upload not included.

    `state` is the last one of `montage.status`; "pending" where it has not begun.
    `duplicates` are the messages on the topics of one message a tile that contradict
    an earlier one, `missing` is one sentence on what was not made of its tiles before
    it was uploaded; `repeats` came again unchanged, from a service that was restarted:
    delivery is at least once, and they change nothing. `received` tiles were imaged
    while this listened: the others, and their seconds, are of an earlier session.
    """

    montage_id: str
    acquisition_id: str
    state: str
    reason: str = ""
    tiles: int
    seconds: float
    passed: int
    failed: int
    unjudged: int
    lost: int
    uploaded: bool
    duplicates: int
    repeats: int = 0
    received: int = 0
    missing: str = ""

    @property
    def is_good(self) -> bool:
        """Whether all of it is imaged, made, judged, uploaded, nothing contradicted.

        A tile that did not pass is a finding, and no fault of the session.
        """
        return (
            self.state == "completed"
            and self.uploaded
            and not (self.unjudged or self.lost or self.duplicates or self.missing)
        )


class LiveReport(Model):
    """All montages of a session.

    A tile is lost when its frame is neither on the microscope's disk nor uploaded.
    `verdict_*_ms` is from the frame being saved to its `qc.tile` being sent. `stop_ms`
    is from a STOP_NOW or abort_now being sent to the stage being halted;
    null when nothing was stopped. Rates are over the seconds of the montages.
    """

    made_by: str = "em_platform session report"
    """By which its file is known as one of ours."""
    tiles_imaged: int
    tiles_lost: int
    verdict_p50_ms: float | None
    verdict_p99_ms: float | None
    tiles_per_s: float
    mpix_per_s: float
    cores: int
    mpix_per_s_per_core: float
    published: Published = Published()
    stop_ms: float | None = None
    montages: tuple[MontageReport, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether every montage is good; without any there is nothing good."""
        return bool(self.montages) and all(each.is_good for each in self.montages)


@dataclass(slots=True, kw_only=True)
class TileRun:
    """What came about one tile.

    `saved_ns` is when its frame was saved, in nanoseconds since 1970; `verdict_ms` when
    its verdict was sent, in milliseconds since 1970. `messages` counts the contents
    that came on each topic, `repeats` the messages whose content had come before.
    """

    saved_ns: int | None = None
    verdict_ms: int | None = None
    passed: bool | None = None
    messages: Counter[str] = field(default_factory=Counter)
    repeats: int = 0

    @property
    def is_received(self) -> bool:
        """Whether it was imaged while this listened."""
        return self.saved_ns is not None or bool(self.messages["tile.raw"])

    @property
    def latency_ms(self) -> float | None:
        """From the frame being saved to the verdict."""
        if self.saved_ns is None or self.verdict_ms is None:
            return None
        return self.verdict_ms - self.saved_ns / 1e6


@dataclass(slots=True, kw_only=True)
class MontageRun:
    """What came about one run of a montage; times in ms since 1970.

    `completed` are the tiles that `montage.complete` names; `imaged` is how many there
    are by `montage.status`, those of earlier sessions included.
    """

    montage_id: str
    acquisition_id: str = ""
    state: str = ""
    reason: str = ""
    imaged: int = 0
    total: int = 0
    begun_ms: int = 0
    ended_ms: int = 0
    completed: tuple[str, ...] | None = None
    uploaded: bool = False
    missing: str = ""
    tiles: dict[str, TileRun] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether no more tiles of it are to come."""
        return self.state in ("completed", "cancelled", "error")

    @property
    def tile_ids(self) -> tuple[str, ...]:
        """Its tiles: as announced, else as received, without frames imaged again."""
        if self.completed is not None:
            return self.completed
        return tuple(self.tiles)

    @property
    def judged(self) -> int:
        """How many of its tiles have a verdict."""
        known = (self.tiles.get(name) for name in self.tile_ids)
        return sum(tile is not None and tile.passed is not None for tile in known)

    @property
    def unjudged(self) -> list[str]:
        """The announced tiles of which no verdict was received."""
        found = [(name, self.tiles.get(name)) for name in self.completed or ()]
        return [name for name, tile in found if tile is None or tile.passed is None]

    @property
    def is_settled(self) -> bool:
        """Whether nothing more is to come of it: imaged, judged, uploaded, or ended."""
        if self.state != "completed":
            return self.is_over
        if self.completed is None:
            return False
        return self.uploaded and not self.unjudged


def report_of(
    montages: Iterable[MontageRun],
    *,
    there: Mapping[str, bool],
    frame_px: int,
    cores: int,
    stop_ms: float | None = None,
) -> LiveReport:
    """The report of a session.

    Parameters
    ----------
    there
        Tile id -> whether its frame is on the microscope's disk or uploaded.
    frame_px
        Pixels of one frame.
    cores
        Of this computer, over which the pixels are shared.
    """
    runs = list(montages)
    reports = tuple(_montage(run, there) for run in runs)
    tiles = sum(report.tiles for report in reports)
    seconds = sum(report.seconds for report in reports)
    received = sum(report.received for report in reports)
    tiles_per_s = received / seconds if seconds > 0 else 0.0
    mpix_per_s = tiles_per_s * frame_px / 1e6
    waits = [tile.latency_ms for run in runs for tile in run.tiles.values()]
    latencies = [wait for wait in waits if wait is not None]
    return LiveReport(
        tiles_imaged=tiles,
        tiles_lost=sum(report.lost for report in reports),
        verdict_p50_ms=percentile(latencies, 50),
        verdict_p99_ms=percentile(latencies, 99),
        tiles_per_s=tiles_per_s,
        mpix_per_s=mpix_per_s,
        cores=cores,
        mpix_per_s_per_core=mpix_per_s / cores,
        stop_ms=stop_ms,
        montages=reports,
    )


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The least value that `percent` of all do not exceed; None where there is none."""
    if not values:
        return None
    rank = -(-len(values) * percent // 100)  # rounded up
    return sorted(values)[max(int(rank), 1) - 1]


def _montage(run: MontageRun, there: Mapping[str, bool]) -> MontageReport:
    names = run.tile_ids
    tiles = [run.tiles.get(name, TileRun()) for name in names]
    # An aborted montage is deleted on purpose: nothing of it is lost.
    kept = run.state == "completed"
    counts = [tile.messages[topic] for tile in run.tiles.values() for topic in PER_TILE]
    return MontageReport(
        montage_id=run.montage_id,
        acquisition_id=run.acquisition_id,
        state=run.state,
        reason=run.reason,
        tiles=len(tiles) if run.completed is not None else max(run.imaged, len(tiles)),
        seconds=max(run.ended_ms - run.begun_ms, 0) / 1000,
        passed=sum(tile.passed is True for tile in tiles),
        failed=sum(tile.passed is False for tile in tiles),
        unjudged=sum(tile.passed is None for tile in tiles) if kept else 0,
        lost=sum(not there.get(name, False) for name in names) if kept else 0,
        uploaded=run.uploaded,
        duplicates=sum(times - 1 for times in counts if times > 1),
        repeats=sum(tile.repeats for tile in run.tiles.values()),
        received=sum(tile.is_received for tile in run.tiles.values()),
        missing=run.missing,
    )


_MARGIN_S = 10.0  # for a computer that has much else to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What is waited for, and for how long without any news of it."""

    what: str
    limit_s: float
    see: str


def wait_of(
    montage_id: str, run: MontageRun | None, settings: AcquisitionSettings
) -> Wait:
    """What a montage that is not settled waits for; None where it has not begun.

    The limits are what the service that owes an answer takes before it reports a
    failure of its own: with no news for so long, none will come.
    """
    request_s = settings.request_timeout_s * settings.request_tries
    if run is None:
        return _wait(f"the start of {montage_id}", 2 * request_s, "coordinator.log")
    name = run.acquisition_id or montage_id
    if run.state != "completed":
        next_tile = f"tile {run.imaged + 1} of {run.total} of {name}"
        return _wait(next_tile, 2 * request_s, "coordinator.log")
    if run.completed is None:
        return _wait(f"montage.complete of {name}", request_s, "coordinator.log")
    buffer = settings.buffer
    upload_s = buffer.statistics_wait_s + buffer.timeout_s
    if run.unjudged:
        verdicts = f"the verdicts on {len(run.unjudged)} tiles of {name}"
        # The buffer waits for them, too, before it sends what there is.
        wait_s = max(2 * settings.qc.tile_wait_s, upload_s)
        return _wait(verdicts, wait_s, "pipeline-1.log and qc.log")
    return _wait(f"the upload of {name}", upload_s, "buffer.log")


def _wait(what: str, limit_s: float, see: str) -> Wait:
    return Wait(what=what, limit_s=limit_s + _MARGIN_S, see=see)
