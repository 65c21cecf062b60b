"""The runs of a running platform: started and followed over Dagster's GraphQL."""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar

from em_platform.errors import ToolFailed
from em_platform.model.check import NOT_APPLICABLE
from em_platform.processes.web_ui import ask

_PARTITION = "dagster/partition"  # Dagster's own tag
Item = TypeVar("Item", bound=Hashable)

_RUNS = """
query($tags: [ExecutionTag!]!) {
  runsOrError(filter: {tags: $tags}) {
    ... on Runs { results { runId status startTime endTime tags { key value } } }
  }
}"""

_EVENTS = """
query($id: ID!) {
  logsForRun(runId: $id) {
    ... on EventConnection { events {
      __typename
      ... on MaterializationEvent { assetKey { path } }
      ... on ExecutionStepSuccessEvent { stepKey }
      ... on ExecutionStepFailureEvent {
        stepKey error { message cause { message } } failureMetadata { description }
      }
      ... on AssetCheckEvaluationEvent { evaluation {
        checkName success severity description assetKey { path }
        metadataEntries { label ... on FloatMetadataEntry { floatValue } }
      } }
    } }
  }
}"""

_WILL_RETRY = {"key": "dagster/will_retry", "value": "true"}
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
_ACTIVE = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "MANAGED")


class _Run(TypedDict):
    """What `_RUNS` asks of a run."""

    runId: str
    status: str
    startTime: float | None
    endTime: float | None
    tags: list[dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOutcome:
    """One check as Dagster holds it."""

    name: str
    passed: bool
    is_error: bool
    sentence: str
    value: float | None = None

    @property
    def is_applicable(self) -> bool:
        """Whether it compared anything, see `Check.not_applicable`."""
        return not self.sentence.startswith(NOT_APPLICABLE)


@dataclass(slots=True, kw_only=True)
class PartitionRuns:
    """All runs of one partition together: a run that was killed has a successor."""

    status: str = "WAITING"
    did_last_step: bool = False
    run_ids: list[str] = field(default_factory=list)
    seconds: float = 0.0
    assets: list[str] = field(default_factory=list)
    checks: dict[str, CheckOutcome] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.status in ENDED

    @property
    def is_good(self) -> bool:
        """Whether all steps succeeded and no check of severity ERROR failed."""
        wrong = [c for c in self.checks.values() if c.is_error and not c.passed]
        return self.status == "SUCCESS" and not wrong

    @property
    def checks_passed(self) -> str:
        """How many checks passed, of those that had anything to compare."""
        judged = [c for c in self.checks.values() if c.is_applicable]
        return f"{sum(c.passed for c in judged)} of {len(judged)}"


PATIENCE_S = 600.0
"""How long a demo waits for its next line. On a busy machine Dagster starts a run again
that is not up within 60 s, up to five times (`dagster.yaml`)."""


def progress(name: str, before: PartitionRuns, now: PartitionRuns) -> Iterator[str]:
    """Lines on what has happened to a partition since `before`."""
    # Queued and starting are left out: they come within a second of each other.
    if now.status != before.status and now.status in ("STARTED", *ENDED):
        yield f"{name}: run {now.status.lower()}"
    for asset in now.assets[len(before.assets) :]:
        yield f"{name}:   {asset.rpartition('/')[2]}"
    for failure in now.failures[len(before.failures) :]:
        yield f"{name}:   {failure}"


def complaints(runs: PartitionRuns) -> Iterator[str]:
    """A line for each check that did not pass."""
    for check in runs.checks.values():
        if not check.passed:
            yield f"{'ERROR' if check.is_error else 'warning'}: {check.sentence}"


def partition_runs(
    url: str, key: str, *, last_step: str = "dataset_record"
) -> PartitionRuns:
    """The runs of one partition, a montage by default, from the web UI at `url`.

    Raises
    ------
    SourceUnavailable
        The web UI does not answer.
    """
    found = _found(url, {_PARTITION: key})
    return _together(url, found, last_step=last_step)


def cryoem_runs(url: str, *, of: Mapping[str, str]) -> dict[str, PartitionRuns]:
    """The runs of movies and tilt series of cryo-EM, by partition.

    `of` has the partitions that are asked for, with the last step of their job.

    Raises
    ------
    SourceUnavailable
        The web UI does not answer.
    """
    tags = {"em/part": "cryoem"}
    return _by_item(url, tags, of=of, item_of=lambda run: run.get(_PARTITION, ""))


def ingest_runs(
    url: str, tags: Mapping[str, str], *, of: Collection[tuple[str, str]]
) -> dict[tuple[str, str], PartitionRuns]:
    """The runs with these tags of items of public sources, by source and key.

    Only what is in `of` is asked for.

    Raises
    ------
    SourceUnavailable
        The web UI does not answer.
    """
    return _by_item(
        *(url, tags),
        of={item: f"{item[0]}__record" for item in of},
        item_of=lambda run: (run.get("em/source", ""), run.get(_PARTITION, "")),
    )


def _by_item(
    url: str,
    tags: Mapping[str, str],
    *,
    of: Mapping[Item, str],
    item_of: Callable[[Mapping[str, str]], Item],
) -> dict[Item, PartitionRuns]:
    """Item -> its runs; `of` names the last step, `item_of` reads a run's tags."""
    found: dict[Item, list[_Run]] = {item: [] for item in of}
    for run in _found(url, tags):
        item = item_of({tag["key"]: tag["value"] for tag in run["tags"]})
        if item in found:
            found[item].append(run)
    return {
        item: _together(url, runs, last_step=of[item]) for item, runs in found.items()
    }


def _found(url: str, tags: Mapping[str, str]) -> list[_Run]:
    """Runs with these tags, the newest first."""
    wanted = [{"key": name, "value": value} for name, value in tags.items()]
    found: list[_Run] = ask(url, _RUNS, tags=wanted)["runsOrError"].get("results", [])
    return found


def _together(url: str, found: Sequence[_Run], *, last_step: str) -> PartitionRuns:
    runs = PartitionRuns()
    if not found:
        return runs
    newest = found[0]
    active = [run for run in found if run["status"] in _ACTIVE]
    runs.status = (active or [newest])[0]["status"]
    runs.run_ids = [run["runId"] for run in found]
    runs.seconds = (newest["endTime"] or 0.0) - (newest["startTime"] or 0.0)
    for run in reversed(found):  # the oldest first: a retry's check counts
        if run["status"] == "QUEUED":
            continue  # it has no events yet
        log = ask(url, _EVENTS, id=run["runId"])["logsForRun"]
        _add_events(runs, log, last_step=last_step)
    # A run that was killed has a successor soon: Dagster's retry of what is not done,
    # or that of our sensor where all is done.
    is_followed = _WILL_RETRY in newest["tags"] or runs.did_last_step
    if runs.status == "FAILURE" and is_followed and not runs.failures:
        runs.status = "QUEUED"
    return runs


def _add_events(runs: PartitionRuns, log: dict[str, Any], *, last_step: str) -> None:
    for event in log.get("events", []):
        kind = event["__typename"]
        if kind == "MaterializationEvent":
            runs.assets.append("/".join(event["assetKey"]["path"]))
        elif kind == "ExecutionStepSuccessEvent":
            runs.did_last_step |= event["stepKey"] == last_step
        elif kind == "AssetCheckEvaluationEvent":
            one = event["evaluation"]
            runs.checks[one["checkName"]] = CheckOutcome(
                name=one["checkName"],
                passed=one["success"],
                is_error=one["severity"] == "ERROR",
                sentence=one["description"] or "",
                value=_value(one),
            )
        elif kind == "ExecutionStepFailureEvent":
            runs.failures.append(_sentence(event))


def _value(evaluation: dict[str, Any]) -> float | None:
    entries = evaluation.get("metadataEntries") or []
    return next((e.get("floatValue") for e in entries if e["label"] == "value"), None)


def _sentence(event: dict[str, Any]) -> str:
    # Our own error's sentence; Dagster's message puts the step around it.
    answered = (event.get("failureMetadata") or {}).get("description")
    error = event.get("error") or {}
    return f"{event['stepKey']}: {answered or error.get('message', 'failed')}".strip()


# Where `up` puts the definitions; Dagster names a module's repository so.
_LOCATION = {
    "repositoryLocationName": "em_platform",
    "repositoryName": "__repository__",
}

_ADD = """
mutation($repository: RepositorySelector!, $set: String!, $key: String!) {
  addDynamicPartition(
    repositorySelector: $repository, partitionsDefName: $set, partitionKey: $key
  ) {
    __typename
    ... on PythonError { message }
    ... on UnauthorizedError { message }
  }
}"""

_LAUNCH = """
mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on InvalidSubsetError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""

_STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def add_partition(url: str, partitions: str, key: str) -> None:
    """Make a key known in a set of dynamic partitions; known ones stay.

    Raises
    ------
    ToolFailed
        Dagster refuses.
    """
    answer = ask(url, _ADD, repository=_LOCATION, set=partitions, key=key)
    answered = answer["addDynamicPartition"]
    # One that is there already is what was wanted.
    fine = ("AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError")
    if answered["__typename"] not in fine:
        raise _refused(f"partition {key} of {partitions}", answered)


def launch(
    url: str, job: str, *, partition: str = "", tags: Mapping[str, str] | None = None
) -> str:
    """Ask for a run of a job; its id. It then waits in Dagster's queue.

    Raises
    ------
    ToolFailed
        Dagster refuses.
    """
    # By the tag `user` Dagster's pages say who launched it, instead of "Manually".
    own = {"user": "em-platform demo", **(tags or {})}
    own |= {_PARTITION: partition} if partition else {}
    params = {
        "selector": {**_LOCATION, "jobName": job},
        "mode": "default",
        "runConfigData": {},
        "executionMetadata": {
            "tags": [{"key": name, "value": value} for name, value in own.items()]
        },
    }
    answered = ask(url, _LAUNCH, params=params)["launchRun"]
    if answered["__typename"] != "LaunchRunSuccess":
        raise _refused(f"a run of {job}", answered)
    return str(answered["run"]["runId"])


def run_status(url: str, run_id: str) -> str:
    """`QUEUED`, `STARTED`, `SUCCESS`, `FAILURE` and so on."""
    return str(ask(url, _STATUS, id=run_id)["runOrError"].get("status", "UNKNOWN"))


def _refused(what: str, answered: dict[str, Any]) -> ToolFailed:
    errors = [
        answered.get("message", ""),
        *(e["message"] for e in answered.get("errors", [])),
    ]
    reasons = "; ".join(text for text in errors if text) or answered["__typename"]
    return ToolFailed(
        f"Dagster: {what} was refused ({reasons}), expected to be taken; "
        "see code_server.log in the data directory"
    )
