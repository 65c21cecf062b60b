from em_platform.catalog.record_files import ci_metadata
from em_platform.config import CatalogSettings

ASKED = CatalogSettings(ci_metadata=True)


def test_a_record_names_the_ci_run_only_where_that_is_asked_for() -> None:
    assert ci_metadata(CatalogSettings(), {"CI_COMMIT_SHA": "abc"}) is None
    found = ci_metadata(
        ASKED,
        {
            "CI_COMMIT_SHA": "abc",
            "GITHUB_SHA": "not this one",
            "GITHUB_RUN_ID": "17",
            "GITHUB_ACTIONS": "true",
            "CI_TRIGGERED_BY": "",
        },
    )
    assert found is not None
    assert found.model_dump() == {
        "commit_sha": "abc",
        "pipeline_id": "17",
        "processing_environment": "github_actions",
    }


def test_without_a_ci_run_nothing_is_said() -> None:
    found = ci_metadata(ASKED, {})
    assert found is not None
    assert found.model_dump() == {}
