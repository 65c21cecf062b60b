"""What became of a montage in Dagster, asked over its web UI's GraphQL."""

from typing import Any

import requests

from em_platform.errors import SourceUnavailable

_RUNS = """
query($key: String!) {
  runsOrError(
    filter: {tags: [{key: "dagster/partition", value: $key}]}, limit: 10
  ) { ... on Runs { results { runId status } } }
}"""

_CHECKS = """
query($id: ID!) {
  logsForRun(runId: $id) { ... on EventConnection { events {
    __typename
    ... on AssetCheckEvaluationEvent {
      evaluation { checkName success severity description }
    }
    ... on ExecutionStepFailureEvent { stepKey error { message } }
  } } }
}"""

_ACTIVE = {"QUEUED", "NOT_STARTED", "STARTING", "STARTED", "MANAGED"}
_TIMEOUT_S = 10.0


def result_of(url: str, acquisition_id: str) -> dict[str, Any] | None:
    """Run, status and failed checks of one montage; None where no run was made yet.

    Raises
    ------
    SourceUnavailable
        The web UI does not answer, or not as expected.
    """
    runs = _ask(url, _RUNS, key=acquisition_id)["runsOrError"].get("results", [])
    if not runs:
        return None
    active = [run for run in runs if run["status"] in _ACTIVE]
    run = (active or runs)[0]
    failed = [] if active else _failures(url, run["runId"])
    return {
        "run_id": run["runId"],
        "status": run["status"].lower(),
        "is_over": not active,
        "failed": failed,
    }


def _failures(url: str, run_id: str) -> list[str]:
    """One sentence for each failed check and step."""
    found: list[str] = []
    for event in _ask(url, _CHECKS, id=run_id)["logsForRun"].get("events", []):
        kind = event["__typename"]
        if kind == "AssetCheckEvaluationEvent" and not event["evaluation"]["success"]:
            check = event["evaluation"]
            found.append(f"{check['checkName']}: {check['description'] or 'failed'}")
        elif kind == "ExecutionStepFailureEvent":
            message = (event["error"] or {}).get("message", "failed")
            found.append(f"{event['stepKey']}: {message.strip().splitlines()[0]}")
    return found


def _ask(url: str, query: str, **variables: str) -> dict[str, Any]:
    body = {"query": query, "variables": variables}
    try:
        answer = requests.post(f"{url}/graphql", json=body, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()["data"]
    except (requests.RequestException, ValueError, KeyError) as error:
        raise SourceUnavailable(
            f"web UI {url}: no answer ({error}), expected one; see web.log in the home"
        ) from error
    if not found:
        raise SourceUnavailable(f"web UI {url}: {answer.text[:300]}; see web.log")
    return found
