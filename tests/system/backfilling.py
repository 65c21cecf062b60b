"""Backfills as the pages of the web UI ask for them."""

from collections.abc import Sequence
from typing import Any

from em_platform.processes.web_ui import ask

BACKFILL = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}"""
LOCATION = {
    "repositoryLocationName": "em_platform",
    "repositoryName": "__repository__",
}


def backfill(url: str, **params: Any) -> str:
    """Ask for partitions again; gives the backfill's id."""
    answer = ask(url, BACKFILL, params=params)["launchPartitionBackfill"]
    return str(answer["backfillId"])


def backfill_job(url: str, job: str, partitions: Sequence[str]) -> str:
    """Ask for partitions of a job again; gives the backfill's id."""
    of_job = {"partitionSetName": f"{job}_partition_set"}
    selector = {**of_job, "repositorySelector": LOCATION}
    return backfill(url, selector=selector, partitionNames=list(partitions))
