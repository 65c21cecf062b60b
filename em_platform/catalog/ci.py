"""The CI run that makes a record, by the variables that CI systems set."""

import os
from collections.abc import Mapping

from em_platform.config import CatalogSettings
from em_platform.model.dataset import CiMetadata

VARIABLES = {
    "commit_sha": ("CI_COMMIT_SHA", "GITHUB_SHA"),
    "commit_ref": ("CI_COMMIT_REF", "CI_COMMIT_REF_NAME", "GITHUB_REF"),
    "pipeline_id": ("CI_PIPELINE_ID", "GITHUB_RUN_ID"),
    "pipeline_url": ("CI_PIPELINE_URL",),
    "triggered_by": ("CI_TRIGGERED_BY", "GITHUB_ACTOR"),
    "workflow_name": ("CI_WORKFLOW_NAME", "GITHUB_WORKFLOW"),
    "runner_os": ("RUNNER_OS",),
    "github_repository": ("GITHUB_REPOSITORY",),
    "github_event_name": ("GITHUB_EVENT_NAME",),
}
"""Field -> variables, the first that is set counts; the first is macroscope's."""


def ci_metadata(
    settings: CatalogSettings, environment: Mapping[str, str] = os.environ
) -> CiMetadata | None:
    """The CI run by its environment; None where `catalog.ci_metadata` is off."""
    if not settings.ci_metadata:
        return None
    fields = {
        field: next((environment[n] for n in names if environment.get(n)), None)
        for field, names in VARIABLES.items()
    }
    if environment.get("GITHUB_ACTIONS"):
        fields["processing_environment"] = "github_actions"
    return CiMetadata(**fields)
