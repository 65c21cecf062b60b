"""The montages that have ended, and what became of them in Dagster."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypedDict

from em_platform.messaging.topics import Body
from em_platform.processes.web_ui import ask

_MOST = 40  # as many as a person looks through; all are in the web UI


class Stitching(TypedDict):
    """What became of one montage in Dagster, in sentences where something failed."""

    run_id: str
    status: str
    is_over: bool
    failed: list[str]
    warnings: list[str]


class Ended(TypedDict):
    """One acquisition that has ended, as the page lists it."""

    acquisition_id: str
    montage_id: str
    tiles: int
    outcome: str
    reason: str
    at: float
    run: Stitching | None


class Finished:
    """By acquisition, the latest last; the oldest are forgotten."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, Ended] = OrderedDict()

    def ended(
        self,
        acquisition_id: str,
        *,
        montage_id: str,
        tiles: int,
        outcome: str,
        reason: str,
        now: float,
    ) -> None:
        """Record the end of one acquisition; a completion is never taken back."""
        before = self._ended.get(acquisition_id)
        # a cancel that arrives late does not undo what is stitched already
        if before is not None and before["outcome"] == "completed":
            return
        self._ended[acquisition_id] = {
            "acquisition_id": acquisition_id,
            "montage_id": montage_id,
            "tiles": tiles,
            "outcome": outcome,
            "reason": reason,
            "at": now if before is None else before["at"],
            "run": None if before is None else before["run"],
        }
        while len(self._ended) > _MOST:
            self._ended.popitem(last=False)

    def completed(self, body: Body, now: float) -> None:
        """Record the end that a `montage.complete` reports."""
        self.ended(
            body["acquisition_id"],
            montage_id=body["montage_id"],
            tiles=len(body["tiles"]),
            outcome="completed",
            reason="",
            now=now,
        )

    def set_run(self, acquisition_id: str, run: Stitching) -> bool:
        """Note Dagster's result; whether that is news."""
        entry = self._ended.get(acquisition_id)
        if entry is None or entry["run"] == run:
            return False
        self._ended[acquisition_id] = {**entry, "run": run}
        return True

    def to_ask(self, most: int) -> list[str]:
        """Acquisitions of which Dagster is asked: unsettled ones, and the latest.

        A montage whose stitching is over may be stitched again.
        """
        latest = [key for key, e in self._ended.items() if e["outcome"] == "completed"]
        return list(dict.fromkeys((*self.unsettled()[-most:], *latest[-most:])))

    def unsettled(self) -> list[str]:
        """Acquisitions that are complete and whose result may still change."""
        return [
            acquisition_id
            for acquisition_id, entry in self._ended.items()
            if entry["outcome"] == "completed"
            and (entry["run"] is None or not entry["run"]["is_over"])
        ]

    def shown(self) -> list[Ended]:
        """All of them, the latest first."""
        return list(reversed(self._ended.values()))

    def restore(self, kept: Sequence[Ended]) -> None:
        """Take over what `shown` once gave."""
        for entry in reversed(kept):
            # what a message has brought since is newer
            self._ended.setdefault(entry["acquisition_id"], entry)


STITCHING_JOBS = ("stitch_montages", "stitch_tiles", "__ASSET_JOB")
"""Jobs that can make a mosaic; the last is what the web UI's "Materialize" runs."""

_MOSAIC = "mosaic"

# Asked by job: however many runs of other jobs have the partition, none is crowded out.
_RUNS = f"""
query($key: String!) {{ {
    " ".join(
        f'''{name}: runsOrError(filter: {{
      pipelineName: "{job}", tags: [{{key: "dagster/partition", value: $key}}]
    }}, limit: 20) {{ ... on Runs {{ results {{
      runId status creationTime rootRunId stepKeysToExecute assetSelection {{ path }}
    }} }} }}'''
        for name, job in zip(("all", "tiles", "assets"), STITCHING_JOBS, strict=True)
    )
} }}"""

_CHECKS = """
query($id: ID!) {
  logsForRun(runId: $id) { ... on EventConnection { events {
    __typename
    ... on AssetCheckEvaluationEvent {
      evaluation { checkName success severity description }
    }
    ... on ExecutionStepSuccessEvent { stepKey }
    ... on ExecutionStepFailureEvent { stepKey error { message } }
  } } }
}"""

# Dagster's statuses of a run that is not over.
_ACTIVE = {"QUEUED", "NOT_STARTED", "STARTING", "STARTED", "MANAGED"}
_TIMEOUT_S = 10.0  # it is asked in a thread of its own, again and again


def result_of(url: str, acquisition_id: str) -> Stitching | None:
    """The stitching of one montage; None where it was not begun yet.

    It is the newest run that makes the mosaic, of any job that can; with the runs that
    Dagster or a user made to repeat what had failed in it. `failed` are sentences of
    steps, and of checks of severity ERROR; `warnings` are those of severity WARN.

    Raises
    ------
    SourceUnavailable
        The web UI does not answer, or not as expected.
    """
    found = ask(url, _RUNS, timeout_s=_TIMEOUT_S, key=acquisition_id)
    runs = [run for each in found.values() for run in each.get("results", ())]
    runs = _stitching(sorted(runs, key=lambda run: float(run["creationTime"])))
    if not runs:
        return None
    newest = runs[-1]
    is_over = all(run["status"] not in _ACTIVE for run in runs)
    failed, warnings = _failures(url, runs) if is_over else ([], [])
    return {
        "run_id": newest["runId"],
        "status": newest["status"].lower(),
        "is_over": is_over,
        "failed": failed,
        "warnings": warnings,
    }


def _stitching(runs: Sequence[Body]) -> list[Body]:
    """The newest run that makes the mosaic, and what repeats parts of it since.

    `runs` are in the order of their creation.
    """
    at = max((n for n, run in enumerate(runs) if _makes_mosaic(run)), default=None)
    if at is None:
        return []
    first = runs[at]
    # a repeat names the first run of its chain
    root = first["rootRunId"] or first["runId"]
    again = [run for run in runs[at + 1 :] if run["rootRunId"] == root]
    return [first, *again]


def _makes_mosaic(run: Body) -> bool:
    steps = run["stepKeysToExecute"]
    if steps is not None:
        return _MOSAIC in steps
    chosen = run["assetSelection"]
    # Without either it is a run of a whole job, each of which makes the mosaic.
    return not chosen or [_MOSAIC] in [each["path"] for each in chosen]


def _failures(url: str, runs: Sequence[Body]) -> tuple[list[str], list[str]]:
    """A sentence for each failed step and check: errors, warnings.

    Of a step or a check that was repeated the last outcome counts.
    """
    errors: dict[str, str] = {}
    warnings: dict[str, str] = {}
    for run in runs:
        answer = ask(url, _CHECKS, timeout_s=_TIMEOUT_S, id=run["runId"])
        found = answer["logsForRun"]
        for event in found.get("events", ()):
            _collect_failure(event, errors, warnings)
    return list(errors.values()), list(warnings.values())


def _collect_failure(
    event: Body, errors: dict[str, str], warnings: dict[str, str]
) -> None:
    kind = event["__typename"]
    if kind == "AssetCheckEvaluationEvent":
        check = event["evaluation"]
        name = check["checkName"]
        errors.pop(name, None)
        warnings.pop(name, None)
        if not check["success"]:
            worse = errors if check["severity"] == "ERROR" else warnings
            worse[name] = f"{name}: {check['description'] or 'failed'}"
    elif kind == "ExecutionStepSuccessEvent":
        errors.pop(f"step {event['stepKey']}", None)
    elif kind == "ExecutionStepFailureEvent":
        message = (event["error"] or {}).get("message", "failed")
        first = message.strip().splitlines()[0]
        errors[f"step {event['stepKey']}"] = f"{event['stepKey']}: {first}"
