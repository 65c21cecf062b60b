import copy
from typing import Any

import pytest

from em_platform.catalog.validate import check_record, judge_record

GOOD: dict[str, Any] = {
    "schema_version": "3.0",
    "id": "84709295-8367-45a4-b299-e887cb77c18c",
    "source": "ebi",
    "source_id": "EMPIAR-11759",
    "key": "11759",
    "status": "complete",
    "created_at": "2025-06-11T21:21:01Z",
    "updated_at": "2025-06-11T22:21:01Z",
    "metadata": {
        "core": {
            "description": "retina",
            "volume_shape": [16, 20, 30],
            "voxel_size_nm": [50.0, 8.0, 4.0],
            "axes": ["z", "y", "x"],
            "data_type": "uint8",
            "modality": "SBF-SEM",
        },
        "technical": {
            "dimensions_nm": [800.0, 160.0, 120.0],
            "levels": [
                {"path": "0", "shape": [16, 20, 30]},
                {"path": "1", "shape": [16, 10, 15]},
            ],
        },
        "provenance": {"download_url": "https://example.org/a%20b/c.dm3"},
    },
    "files": {"volume": "file:///data/volumes/ebi/11759.zarr"},
}


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The good record with some values changed, each named by its dotted path."""
    record = copy.deepcopy(GOOD)
    for path, value in changes:
        *above, last = path.split(".")
        node = record
        for part in above:
            node = node.setdefault(part, {})
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return record


CORE, TECHNICAL = "metadata.core", "metadata.technical"


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("id", "84709295", "id: '84709295' is not a uuid"),
        ("id", 5, "id: 5 is not of type 'string'"),
        ("source", "EBI", "source: 'EBI' does not match '^[a-z][a-z0-9_-]*$'"),
        ("source_id", ..., "the whole: 'source_id' is a required property"),
        ("created_at", "2025-06-11T21:21:01", "is not a date-time"),
        ("created_at", "2025-06-11 21:21:01Z", "is not a date-time"),
        ("created_at", "2025-02-30T21:21:01Z", "is not a date-time"),
        (f"{CORE}.imaging_start_date", "2025-02-30", "'2025-02-30' is not a date"),
        ("metadata.provenance.download_url", "a b", "'a b' is not a uri"),
        ("metadata.provenance.download_url", "/data/x", "'/data/x' is not a uri"),
        (f"{TECHNICAL}.sha256", "AB" * 32, "sha256: 'ABAB"),
        (f"{CORE}.data_type", "complex64", "data_type: 'complex64' is not one of"),
        (f"{CORE}.volume_shape", [0, 20, 30], "volume_shape[0]: 0 is less than"),
        (f"{CORE}.voxel_size_nm", "8 nm", "'8 nm' has none of the allowed forms"),
        (f"{CORE}.voxel_size_nm", {"x": -1}, "voxel_size_nm.x: -1 is less than"),
        (f"{CORE}.voxel_size_nm", [0, 8, 4], "voxel_size_nm[0]: 0 nm, a length above"),
        (f"{CORE}.voxel_size_nm", [8, 4], "has 2 axes, the shape has 3"),
        (f"{TECHNICAL}.dimensions_nm", [120, 160, 800], "is in the order x, y, z"),
        (f"{TECHNICAL}.dimensions_nm", [1, 2, 3], "shape times voxel size is [800"),
        (f"{TECHNICAL}.levels", [{"path": "0", "shape": [8, 20, 30]}], "the volume is"),
        ("updated_at", "2025-06-10T22:21:01Z", "is before created_at"),
        ("files.volume", ..., "files.volume: is missing, a complete record says"),
        (f"{CORE}.volume_shape", ..., "volume_shape: is missing, a complete record"),
        ("progress.percentage", 101, "percentage: 101 is greater than the maximum"),
        ("error.retry_count", -1, "error.retry_count: -1 is less than the minimum"),
        ("metadata.quality.completeness_score", 1.5, "1.5 is greater than"),
        ("aliases", None, "aliases: None is not of type 'array'"),
    ],
)
def test_what_is_wrong_is_reported_with_its_path(
    path: str, value: Any, error: str
) -> None:
    errors = check_record(changed((path, value)))
    assert [each for each in errors if error in each], errors
    if value is not ...:
        assert all(each.startswith(path) for each in errors), errors


def test_a_good_record_has_no_findings() -> None:
    found = judge_record(GOOD)
    assert (found.errors, found.warnings) == ((), ())


def test_all_errors_are_reported_at_once() -> None:
    wrong = changed(
        ("id", "no"),
        ("created_at", "no"),
        (f"{CORE}.volume_shape", [0, -1, 5]),
        (f"{TECHNICAL}.sha256", "no"),
    )
    places = [error.partition(": ")[0] for error in check_record(wrong)]
    assert places == [
        "created_at",
        "id",
        "metadata.core.volume_shape[0]",
        "metadata.core.volume_shape[1]",
        "metadata.technical.sha256",
    ]


def test_unknown_keys_are_warned_of_and_leave_a_record_valid() -> None:
    found = judge_record(
        changed(
            ("local_paths", {"volume": "a"}),
            (f"{TECHNICAL}.streaming_processed", True),
            (f"{TECHNICAL}.levels", [{"path": "0", "shape": [16, 20, 30], "x": 1}]),
            ("additional_metadata", {"anything": {"goes": 1}}),
        )
    )
    assert found.errors == ()
    assert found.warnings == (
        "local_paths: no version declares this key",
        "metadata.technical.levels[0].x: no version declares this key",
        "metadata.technical.streaming_processed: no version declares this key",
    )


def test_one_section_may_have_no_thickness() -> None:
    flat = changed(
        (f"{CORE}.volume_shape", [1, 20, 30]),
        (f"{CORE}.voxel_size_nm", [0, 8, 4]),
        (f"{TECHNICAL}.dimensions_nm", [0, 160, 120]),
        (f"{TECHNICAL}.levels", []),
    )
    assert check_record(flat) == ()


def test_a_complete_record_needs_its_volume() -> None:
    missing = judge_record(GOOD, exists=lambda url: False)
    assert missing.errors == (
        "files.volume: file:///data/volumes/ebi/11759.zarr is not there, a complete "
        "record has its volume",
    )
    assert judge_record(GOOD, exists=lambda url: None).errors == ()
    pending = changed(("status", "pending"))
    assert judge_record(pending, exists=lambda url: False).errors == ()


def test_a_failed_record_should_say_why() -> None:
    assert judge_record(changed(("status", "failed"))).warnings == (
        "error.message: is missing, a failed record says what happened",
    )


@pytest.mark.parametrize("content", [None, [], "text", 5])
def test_what_is_no_object_is_one_error(content: Any) -> None:
    assert check_record(content) == (
        f"the whole: {type(content).__name__}, an object expected",
    )


def test_a_long_wrong_value_is_cut() -> None:
    [error] = check_record(changed(("status", "x" * 5000)))
    assert len(error) < 400


REASONS = "metadata.quality.review_reasons"


def test_a_record_that_needs_review_has_its_volume_and_its_reasons() -> None:
    waiting = changed(("status", "needs_review"), (REASONS, ["Missing: 1 tile."]))
    assert judge_record(waiting, exists=lambda url: True).errors == ()
    assert judge_record(waiting, exists=lambda url: False).errors == (
        "files.volume: file:///data/volumes/ebi/11759.zarr is not there, a "
        "needs_review record has its volume",
    )
    silent = changed(("status", "needs_review"))
    assert check_record(silent) == (
        f"{REASONS}: is missing, a needs_review record says which checks failed",
    )
    complete = changed((REASONS, ["Missing: 1 tile."]))
    assert check_record(complete) == (
        f"{REASONS}: a complete record has none; its status is needs_review",
    )
