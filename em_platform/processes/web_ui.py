"""Questions to Dagster's web UI, in GraphQL."""

from typing import Any

import requests

from em_platform.errors import SourceUnavailable


def ask(
    url: str, query: str, *, timeout_s: float = 30.0, **variables: Any
) -> dict[str, Any]:
    """The answer of the web UI at `url` to one question.

    Raises
    ------
    SourceUnavailable
        It does not answer, or refuses.
    """
    body = {"query": query, "variables": variables}
    try:
        answer = requests.post(f"{url}/graphql", json=body, timeout=timeout_s)
        answer.raise_for_status()
        data: dict[str, Any] | None = answer.json().get("data")
    except (requests.RequestException, ValueError) as error:
        raise SourceUnavailable(
            f"web UI {url}: no answer ({error}), expected one; see web.log in the home"
        ) from error
    # GraphQL refuses with status 200, and without data.
    if data is None:
        raise SourceUnavailable(f"web UI {url}: {answer.text[:300]}; see web.log")
    return data
