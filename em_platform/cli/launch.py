"""Start runs in a running platform, over the web UI's own GraphQL."""

from collections.abc import Mapping
from typing import Any

from em_platform.cli.runs import ask
from em_platform.errors import ToolFailed

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
    told = answer["addDynamicPartition"]
    fine = ("AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError")
    if told["__typename"] not in fine:
        raise _refused(f"partition {key} of {partitions}", told)


def launch(
    url: str, job: str, *, partition: str = "", tags: Mapping[str, str] | None = None
) -> str:
    """Ask for a run of a job; its id. It then waits in Dagster's queue.

    Raises
    ------
    ToolFailed
        Dagster refuses.
    """
    own = {**(tags or {}), **({"dagster/partition": partition} if partition else {})}
    params = {
        "selector": {**_LOCATION, "jobName": job},
        "mode": "default",
        "runConfigData": {},
        "executionMetadata": {
            "tags": [{"key": name, "value": value} for name, value in own.items()]
        },
    }
    told = ask(url, _LAUNCH, params=params)["launchRun"]
    if told["__typename"] != "LaunchRunSuccess":
        raise _refused(f"a run of {job}", told)
    return str(told["run"]["runId"])


def run_status(url: str, run_id: str) -> str:
    """`QUEUED`, `STARTED`, `SUCCESS`, `FAILURE` and so on."""
    return str(ask(url, _STATUS, id=run_id)["runOrError"].get("status", "UNKNOWN"))


def _refused(what: str, told: dict[str, Any]) -> ToolFailed:
    errors = [told.get("message", ""), *(e["message"] for e in told.get("errors", []))]
    said = "; ".join(text for text in errors if text) or told["__typename"]
    return ToolFailed(
        f"Dagster: {what} was refused ({said}), expected to be taken; see code_server"
        ".log in the home"
    )
