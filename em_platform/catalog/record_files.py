"""Records as files: sorted keys, nothing that is not known, whole or absent."""

import json
import logging
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from em_platform.catalog.records import record_id
from em_platform.config import CatalogSettings
from em_platform.errors import RecordError
from em_platform.model.dataset import (
    WITH_VOLUME,
    CiMetadata,
    CoreMetadata,
    DatasetMetadata,
    DatasetRecord,
    RecordedError,
    RecordProgress,
    Status,
)
from em_platform.storage import layout
from em_platform.storage.store import Store

# A record as JSON values: of any version, and perhaps wrong in form.
Record = Mapping[str, Any]
# What this platform puts together itself before it becomes JSON.
Parts = dict[str, Any]

# The encoder in C, which Python takes only where nothing is indented.
_LINE = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False)

log = logging.getLogger(__name__)

# Statuses without a volume that someone may rely on.
_REMOVABLE = {Status.FAILED, Status.CANCELLED, Status.PENDING}


def utc_now() -> datetime:
    """The time of this computer."""
    return datetime.now(UTC)


def json_bytes(content: Any) -> bytes:
    """Indented JSON with sorted keys: equal content gives equal bytes."""
    # NaN is no JSON: other readers would refuse the file.
    text = json.dumps(
        content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


def listed_bytes(content: Record) -> bytes:
    """An object whose lists have one line an item, for thousands of records.

    Equal content gives equal bytes. Python writes indented JSON ten times as slowly.
    """
    parts = []
    for name, value in sorted(content.items()):
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(map(_LINE.encode, value)) + "\n]"
        else:
            text = json_bytes(value).decode().rstrip()
        parts.append(f"{json.dumps(name)}: {text}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def content_of(record: DatasetRecord) -> Parts:
    """The record as JSON values; what is not known is left out."""
    return record.model_dump(mode="json")


def write_record(store: Store, name: str, record: DatasetRecord) -> None:
    """Put the record at `name`, whole or not at all."""
    store.write_document(name, json_bytes(content_of(record)))


def read_record(store: Store, name: str) -> DatasetRecord | None:
    """The record at `name`, None where there is none.

    Raises
    ------
    RecordError
        What lies there is no record; it says why.
    """
    if not store.exists(name):
        return None
    return store.read(name, DatasetRecord)


def earlier_record(store: Store, name: str) -> DatasetRecord | None:
    """The record at `name`; a damaged one is logged and counts as none."""
    try:
        return read_record(store, name)
    except RecordError as error:
        log.warning("%s", error)
        return None


def remove_record(
    store: Store, source: str, key: str, *, of_any_status: bool = False
) -> None:
    """Take the record of a dataset that came to nothing out of the store.

    Voxels and fetched files stay.

    Raises
    ------
    RecordError
        It is of a dataset that stands or is being made, and not `of_any_status`.
    """
    name = layout.record(source, key)
    found = earlier_record(store, name)
    if found is not None and found.status not in _REMOVABLE and not of_any_status:
        raise RecordError(
            f"catalog remove: {source}/{key} is {found.status}, only failed, cancelled "
            "and pending records are removed; add --force to remove it all the same"
        )
    store.remove(name)


def first_recorded(
    store: Store, name: str, *, now: Callable[[], datetime] = utc_now
) -> datetime:
    """When the dataset was recorded first: by the record at `name`, else now."""
    earlier = earlier_record(store, name)
    return now() if earlier is None else earlier.created_at


def as_first_made(record: DatasetRecord, store: Store, name: str) -> DatasetRecord:
    """The record at the path `name`, where only the run that writes it differs.

    So it names the run that made the dataset as it is, and repeating changes nothing.
    """
    earlier = earlier_record(store, name)
    if earlier is None:
        return record
    return earlier if _made(earlier) == _made(record) else record


def _made(record: DatasetRecord) -> Record:
    content = content_of(record)
    content["metadata"]["provenance"].pop("dagster", None)
    return content


def at(content: Record, *path: str) -> Any:
    """The value at a path of keys, None where a part of it is missing."""
    value: Any = content
    for part in path:
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


# Progress where nobody measured it.
PERCENT_AT = {
    Status.PENDING: 0.0,
    Status.PROCESSING: 25.0,
    Status.SAVING_DATA: 50.0,
    Status.COMPLETE: 100.0,
    Status.NEEDS_REVIEW: 100.0,
}
# Statuses at which the percentage stays where it was.
_STOPPED = {Status.FAILED, Status.CANCELLED}
# Earlier and new status -> why not. All other pairs happen: steps that find their
# result done already are skipped, and any try may fail, be stopped, or start again.
_CANNOT_FOLLOW = {
    (Status.PENDING, Status.SAVING_DATA): "processing comes first; mark that",
    (Status.PROCESSING, Status.PENDING): "it is being worked on; cancel that first",
    (Status.SAVING_DATA, Status.PENDING): "it is being worked on; cancel that first",
    (Status.COMPLETE, Status.PENDING): "nothing is left to do; mark it processing to "
    "do it again",
    (Status.NEEDS_REVIEW, Status.PENDING): "its volume stands; mark it processing to "
    "do it again",
}
# Characters of a traceback that are kept, from its end.
_MOST_TRACEBACK = 20_000


def mark(
    store: Store,
    source: str,
    key: str,
    status: Status | str,
    *,
    step: str = "",
    percentage: float | None = None,
    error: BaseException | str | None = None,
    record: DatasetRecord | None = None,
    now: Callable[[], datetime] = utc_now,
) -> DatasetRecord:
    """Write the status of a dataset into its record, and give the record.

    `record` says what is known by now; without it all that was known before stays.
    `id`, `created_at` and the count of retries are kept from the record that is there.
    A try after a failed or cancelled one counts as a retry. `complete` clears the error
    and keeps the count. A mark that says nothing new but the time and the run writes
    nothing.

    Raises
    ------
    RecordError
        The status cannot follow the one before, or a complete record lacks its shape.
    """
    status, name = Status(status), layout.record(source, key)
    earlier = earlier_record(store, name)
    if earlier is not None:
        _check_order(earlier, status)
    base = record or earlier or _stub(source, key, now())
    marked = _changed(
        base,
        id=earlier.id if earlier else record_id(source, key),
        key=key,
        status=status,
        created_at=earlier.created_at if earlier else base.created_at,
        updated_at=earlier.updated_at if earlier else base.updated_at,
        progress=_progress(status, step, percentage, earlier=earlier),
        error=_error(status, error, earlier=earlier),
    )
    if earlier is not None and _lasting(marked) == _lasting(earlier):
        return earlier
    marked = marked.model_copy(update={"updated_at": now()})
    write_record(store, name, marked)
    return marked


def mark_unusable(store: Store, key: str, reasons: Sequence[str]) -> DatasetRecord:
    """Say in a montage's record that its input allows no mosaic; the record.

    One whose mosaic stands, of an earlier and better input, needs review; any other is
    failed.
    """
    name = layout.dataset_record(key)
    earlier = earlier_record(store, name)
    if earlier is None or earlier.status not in WITH_VOLUME:
        return mark(store, "acquisition", key, Status.FAILED, error=" ".join(reasons))
    quality = earlier.metadata.quality
    all_reasons = tuple(dict.fromkeys((*quality.review_reasons, *reasons)))
    quality = quality.model_copy(update={"review_reasons": all_reasons})
    metadata = earlier.metadata.model_copy(update={"quality": quality})
    changed = _changed(earlier, key=key, status=Status.NEEDS_REVIEW, metadata=metadata)
    write_record(store, name, changed)
    return changed


def _lasting(record: DatasetRecord) -> DatasetRecord:
    """The record without what differs from run to run."""
    provenance = record.metadata.provenance.model_copy(update={"dagster": None})
    metadata = record.metadata.model_copy(update={"provenance": provenance})
    return record.model_copy(
        update={"metadata": metadata, "ci_metadata": None, "updated_at": None}
    )


def _changed(base: DatasetRecord, **changes: object) -> DatasetRecord:
    """A validated copy: pydantic's own looks at no rule."""
    changed = base.model_copy(update=changes)
    try:
        return DatasetRecord.model_validate_json(json_bytes(content_of(changed)))
    except ValueError as error:
        raise RecordError(
            f"catalog: the record of {base.source} {changes['key']} cannot be "
            f"{changes['status']}: {error}"
        ) from error


def _check_order(earlier: DatasetRecord, status: Status) -> None:
    why = _CANNOT_FOLLOW.get((earlier.status, status))
    if why is not None:
        raise RecordError(
            f"catalog: {earlier.source} {earlier.key} is {earlier.status} and was to "
            f"be {status}: {why}"
        )


def _stub(source: str, key: str, moment: datetime) -> DatasetRecord:
    core = CoreMetadata(description=f"{source} {key}")
    return DatasetRecord(
        id=record_id(source, key),
        source=source,
        source_id=key,
        key=key,
        status=Status.PENDING,
        created_at=moment,
        metadata=DatasetMetadata(core=core),
    )


def _progress(
    status: Status,
    step: str,
    percentage: float | None,
    *,
    earlier: DatasetRecord | None,
) -> RecordProgress:
    """A try that stops keeps how far it came, and at which step."""
    before = earlier.progress if earlier and status in _STOPPED else None
    before = before or RecordProgress()
    if percentage is None:
        percentage = PERCENT_AT.get(status, before.percentage)
    return RecordProgress(
        percentage=percentage, current_step=step or before.current_step
    )


def _error(
    status: Status, error: BaseException | str | None, *, earlier: DatasetRecord | None
) -> RecordedError | None:
    before = (earlier.error if earlier else None) or RecordedError()
    was_stopped = earlier is not None and earlier.status in _STOPPED
    retries = before.retry_count + (was_stopped and status not in _STOPPED)
    if status in _STOPPED:
        if error is None:
            return RecordedError(
                message=before.message, traceback=before.traceback, retry_count=retries
            )
        return RecordedError(
            message=_message(error), traceback=_traceback(error), retry_count=retries
        )
    return RecordedError(retry_count=retries) if retries else None


def _message(error: BaseException | str) -> str:
    return str(error) or type(error).__name__


def _traceback(error: BaseException | str) -> str:
    if isinstance(error, str):
        return ""
    return "".join(traceback.format_exception(error))[-_MOST_TRACEBACK:]


# Field -> variables, the first that is set counts; the first is macroscope's.
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
