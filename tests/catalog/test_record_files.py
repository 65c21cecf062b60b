"""Records as files: how far a dataset is, and by which CI run."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from em_platform.catalog.record_files import ci_metadata, mark
from em_platform.catalog.records import record_id
from em_platform.config import CatalogSettings
from em_platform.errors import RecordError, SourceUnavailable
from em_platform.model.dataset import (
    CoreMetadata,
    DagsterProvenance,
    DatasetMetadata,
    DatasetRecord,
    Provenance,
    Status,
)
from em_platform.storage import layout
from em_platform.storage.store import Store, open_store

NOON = datetime(2026, 5, 6, 12, tzinfo=UTC)
NAME = layout.record("ebi", "11759")


class Clock:
    """Each look is one minute later."""

    def __init__(self) -> None:
        self.time = NOON

    def __call__(self) -> datetime:
        self.time += timedelta(minutes=1)
        return self.time


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def whole(description: str = "retina") -> DatasetRecord:
    core = CoreMetadata(
        description=description,
        volume_shape=(16, 20, 30),
        data_type="uint8",
        modality="SBF-SEM",
    )
    return DatasetRecord(
        id=record_id("ebi", "11759"),
        source="ebi",
        source_id="EMPIAR-11759",
        key="11759",
        status=Status.COMPLETE,
        created_at=NOON,
        metadata=DatasetMetadata(core=core),
    )


def test_a_record_is_there_from_the_first_step_and_is_enriched_at_the_end(
    store: Store,
) -> None:
    clock = Clock()
    stub = mark(store, "ebi", "11759", "pending", now=clock)
    assert stub.metadata.core.description == "ebi 11759"
    mark(store, "ebi", "11759", Status.PROCESSING, step="raw", now=clock)
    saving = mark(store, "ebi", "11759", Status.SAVING_DATA, step="volume", now=clock)
    assert saving.progress is not None
    assert saving.progress.current_step == "volume"
    done = mark(store, "ebi", "11759", "complete", record=whole(), now=clock)
    assert done == store.read(NAME, DatasetRecord)
    assert done.id == stub.id == record_id("ebi", "11759")
    assert done.source_id == "EMPIAR-11759"
    assert done.created_at == stub.created_at < (done.updated_at or NOON)
    assert done.error is None
    assert done.progress is not None
    assert done.progress.percentage == 100


def test_a_failure_is_recorded_and_retries_are_counted_over_runs(store: Store) -> None:
    mark(store, "ebi", "11759", "processing", step="raw")
    for retries in (0, 1, 2):
        try:
            raise SourceUnavailable("ebi: 503 at the archive, 200 expected; try later")
        except SourceUnavailable as error:
            failed = mark(store, "ebi", "11759", "failed", error=error)
        assert failed.error is not None
        assert failed.error.retry_count == retries
        assert failed.error.message.startswith("ebi: 503 at the archive")
        assert "test_record_files.py" in failed.error.traceback
        assert failed.progress is not None
        assert failed.progress.current_step == "raw"
        mark(store, "ebi", "11759", "processing", step="raw")
    done = mark(store, "ebi", "11759", "complete", record=whole())
    assert done.error is not None
    assert done.error.model_dump() == {"retry_count": 3}
    again = mark(store, "ebi", "11759", "processing", step="raw")
    assert again.error is not None
    assert again.error.retry_count == 3, "a new run after a good one is no retry"
    assert again.metadata.core.volume_shape == (16, 20, 30), "nothing known is lost"


def test_a_cancelled_item_can_start_again(store: Store) -> None:
    mark(store, "ebi", "11759", "processing", step="raw")
    stopped = mark(store, "ebi", "11759", "cancelled")
    assert (stopped.status, stopped.progress and stopped.progress.percentage) == (
        Status.CANCELLED,
        25.0,
    )
    again = mark(store, "ebi", "11759", "pending")
    assert again.error is not None
    assert again.error.retry_count == 1


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("pending", "saving-data", "processing comes first"),
        ("processing", "pending", "cancel that first"),
        ("complete", "pending", "nothing is left to do"),
        ("needs_review", "pending", "its volume stands"),
    ],
)
def test_a_status_that_cannot_follow_is_refused(
    store: Store, before: str, after: str, reason: str
) -> None:
    mark(store, "ebi", "11759", before, record=whole())
    with pytest.raises(RecordError, match=f"is {before} .* be {after}: .*{reason}"):
        mark(store, "ebi", "11759", after)


@pytest.mark.parametrize("status", ["complete", "needs_review"])
def test_a_stub_has_no_volume_that_stands(store: Store, status: str) -> None:
    mark(store, "ebi", "11759", "processing")
    with pytest.raises(RecordError, match="without volume_shape and data_type"):
        mark(store, "ebi", "11759", status)
    assert store.read(NAME, DatasetRecord).status is Status.PROCESSING


def test_a_mark_that_says_nothing_new_writes_nothing(store: Store) -> None:
    clock = Clock()
    mark(store, "ebi", "11759", "complete", record=whole(), now=clock)
    before = store.read_bytes(NAME)
    mark(store, "ebi", "11759", "complete", record=whole(), now=clock)
    assert store.read_bytes(NAME) == before
    mark(store, "ebi", "11759", "complete", record=whole("other"), now=clock)
    assert store.read_bytes(NAME) != before


def test_another_run_alone_is_nothing_new(store: Store) -> None:
    def made_by(run_id: str) -> DatasetRecord:
        record = whole()
        provenance = Provenance(dagster=DagsterProvenance(run_id=run_id))
        metadata = record.metadata.model_copy(update={"provenance": provenance})
        return record.model_copy(update={"metadata": metadata})

    mark(store, "ebi", "11759", "complete", record=made_by("first"))
    before = store.read_bytes(NAME)
    mark(store, "ebi", "11759", "complete", record=made_by("second"))
    assert store.read_bytes(NAME) == before
    assert b"first" in before


def test_a_damaged_record_is_written_anew(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.write_bytes(NAME, b'{"id": "half')
    assert mark(store, "ebi", "11759", "processing").status is Status.PROCESSING
    assert "is not a DatasetRecord" in caplog.text


def test_a_file_has_sorted_keys_and_says_nothing_unknown(store: Store) -> None:
    mark(store, "ebi", "11759", "pending", now=Clock())
    text = store.read_bytes(NAME).decode()
    content = json.loads(text)
    assert list(content) == sorted(content)
    assert "null" not in text
    assert set(content["metadata"]) == {"core"}


def test_a_dataset_that_needs_review_becomes_complete_by_a_better_run(
    store: Store,
) -> None:
    waiting = mark(store, "ebi", "11759", "needs_review", record=whole())
    assert waiting.progress is not None
    assert waiting.progress.percentage == 100
    mark(store, "ebi", "11759", "processing")
    assert mark(store, "ebi", "11759", "complete", record=whole()).error is None


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
