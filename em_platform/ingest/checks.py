"""Whether an ingested volume is what its source promised."""

from collections.abc import Iterable

from em_platform.config import VolumeQualitySettings
from em_platform.ingest.source import Lengths
from em_platform.model import Check, Severity
from em_platform.model.ingest import Entry, RawItem, VolumeItem
from em_platform.model.sentences import counted
from em_platform.model.volume import WrittenVolume

CHECKS = {
    "files_are_whole": "Every file was fetched whole, with its published checksum.",
    "no_chunks_are_missing": "The source holds every chunk of the array.",
    "shape_is_expected": "Shape and type are those that the source states.",
    "voxel_size_is_expected": "File and source agree on the size of a voxel.",
    "volume_is_not_blank": "The voxels vary, and so do those of each section.",
    "dataset_is_new": "No other dataset of the catalog has the same voxels.",
    "record_is_valid": "The catalog record keeps its schema and all rules.",
}
"""Check -> what it states."""


def check_item(
    entry: Entry,
    raw: RawItem,
    *,
    item: VolumeItem,
    quality: VolumeQualitySettings,
    same_voxels: Iterable[str] = (),
) -> tuple[Check, ...]:
    """All checks but that of the record itself.

    `same_voxels` are other datasets that have the same voxels.
    """
    return (
        files_are_whole(entry, raw),
        no_chunks_are_missing(raw, quality),
        shape_is_expected(entry, item.written),
        voxel_size_is_expected(entry, item, quality),
        volume_is_not_blank(item.written, quality),
        dataset_is_new(tuple(same_voxels)),
    )


def files_are_whole(entry: Entry, raw: RawItem) -> Check:
    """Each promised file is there, with its length and published checksum."""
    fetched = {file.name: file for file in raw.files}
    wrong = [
        f"{promised.name}: not fetched"
        if promised.name not in fetched
        else f"{promised.name}: {fetched[promised.name].size_bytes} bytes"
        for promised in entry.files
        if promised.name not in fetched
        or promised.size_bytes not in (None, fetched[promised.name].size_bytes)
    ]
    compared = sum(f.checked_against in ("sha256", "md5") for f in raw.files)
    if wrong:
        sentence = f"{len(wrong)} of {len(entry.files)} files are not whole: {wrong[0]}"
    # A warning only: the number that EMPIAR states is not always true.
    elif entry.stated_files not in (None, len(raw.files)):
        return _check(
            "files_are_whole",
            False,
            f"{counted(len(raw.files), 'file')} listed and whole, the source states "
            f"{entry.stated_files}",
            severity=Severity.WARN,
        )
    elif not entry.files:
        return _compared_chunks(raw)
    else:
        sentence = (
            f"{counted(len(raw.files), 'file')} of {raw.size_bytes} bytes whole; "
            f"{compared} with a published checksum, of the others nothing but the "
            "length is proved"
        )
    value = compared / len(raw.files) if raw.files else None
    return _check(
        "files_are_whole", not wrong, sentence, value=value, items=tuple(wrong)
    )


def _compared_chunks(raw: RawItem) -> Check:
    """What proves the chunks' bytes, and the part of them of which something does."""
    name = "files_are_whole"
    sentence = "the array is read in place, no file was copied"
    there = (raw.expected_chunks or 0) - (raw.missing_chunks or 0)
    if raw.missing_chunks is None or there < 1:
        why = f"{sentence}; nothing but their length proves its chunks"
        return Check.not_applicable(name, why)
    sentence += (
        f"; {raw.chunks_with_md5} of {there} chunks have a digest, of the others "
        "nothing but the length is proved"
    )
    return _check(name, True, sentence, value=raw.chunks_with_md5 / there)


def no_chunks_are_missing(raw: RawItem, quality: VolumeQualitySettings) -> Check:
    """The fraction of chunks that the source does not hold is below its limit."""
    name = "no_chunks_are_missing"
    if raw.expected_chunks is None or raw.missing_chunks is None:
        return Check.not_applicable(name, "the source does not list its chunks")
    fraction = raw.missing_chunks / max(1, raw.expected_chunks)
    return _check(
        name,
        fraction <= quality.max_missing_fraction,
        f"{raw.missing_chunks} of {raw.expected_chunks} chunks are missing at the "
        "source; readers see its fill value there",
        severity=Severity.WARN,
        value=fraction,
        limit=quality.max_missing_fraction,
        items=raw.missing,
    )


def shape_is_expected(entry: Entry, written: WrittenVolume) -> Check:
    """The volume has the shape and type that the source states, if it states any."""
    found = f"{_times(written.shape)} {written.dtype}"
    right = entry.shape in (None, written.shape) and entry.dtype in (
        None,
        written.dtype,
    )
    if entry.shape is None and entry.dtype is None:
        why = f"the source states no shape and no type; the volume is {found}"
        return Check.not_applicable("shape_is_expected", why)
    stated = f"{_times(entry.shape or ())} {entry.dtype or ''}".strip()
    sentence = f"the volume is {found}, the source states {stated}"
    return _check("shape_is_expected", right, sentence)


def voxel_size_is_expected(
    entry: Entry, item: VolumeItem, quality: VolumeQualitySettings
) -> Check:
    """File and source agree on each axis for which both state a length."""
    name, used = "voxel_size_is_expected", item.written.voxel_size_nm
    if used is None:
        sentence = "neither the file nor the source states the size of a voxel"
        return _check(name, False, sentence, severity=Severity.WARN)
    differs = max(
        _difference(item.stated_voxel_nm, entry.voxel_size_nm),
        _difference(used, entry.voxel_size_nm),
    )
    sentence = (
        f"a voxel is {_lengths(used)}; the file states {_lengths(item.stated_voxel_nm)}"
        f", the source {_lengths(entry.voxel_size_nm)}"
    )
    if None in (item.stated_voxel_nm, entry.voxel_size_nm):
        return Check.not_applicable(name, sentence)
    return _check(
        name,
        differs <= quality.voxel_tolerance,
        sentence,
        severity=Severity.WARN,
        value=differs,
        limit=quality.voxel_tolerance,
    )


def volume_is_not_blank(
    written: WrittenVolume, quality: VolumeQualitySettings
) -> Check:
    """The voxels spread, and few sections have one grey level only."""
    statistics = written.statistics
    blank = len(statistics.blank_sections) / written.shape[0]
    return _check(
        "volume_is_not_blank",
        statistics.std >= quality.min_std and blank <= quality.max_blank_fraction,
        f"grey levels {statistics.minimum:g} to {statistics.maximum:g}, standard "
        f"deviation {statistics.std:.3g}; {len(statistics.blank_sections)} of "
        f"{written.shape[0]} sections have one grey level only",
        value=blank,
        limit=quality.max_blank_fraction,
        # As many as a person reads in the record or in Dagster's table.
        items=tuple(f"section {z}" for z in statistics.blank_sections[:100]),
    )


def dataset_is_new(same_voxels: tuple[str, ...]) -> Check:
    """No other dataset has the same voxels."""
    if same_voxels:
        sentence = f"the same voxels are in the catalog as {', '.join(same_voxels)}"
    else:
        sentence = "no other dataset has the same voxels"
    return _check(
        "dataset_is_new",
        not same_voxels,
        sentence,
        severity=Severity.WARN,
        items=same_voxels,
    )


def record_is_valid(errors: tuple[str, ...]) -> Check:
    """The record keeps its schema and all rules."""
    sentence = "; ".join(errors[:3]) or "the record keeps its schema and all rules"
    return _check("record_is_valid", not errors, sentence, items=errors)


def _check(
    name: str,
    passed: bool,
    sentence: str,
    *,
    severity: Severity = Severity.ERROR,
    value: float | None = None,
    limit: float | None = None,
    items: tuple[str, ...] = (),
) -> Check:
    return Check(
        name=name,
        passed=passed,
        severity=severity,
        sentence=sentence,
        value=value,
        limit=limit,
        items=items,
    )


def _difference(one: Lengths | None, other: Lengths | None) -> float:
    """The largest relative difference of an axis that both know."""
    if one is None or other is None:
        return 0.0
    # 0 is a length that is not known, such as the thickness of a plane.
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a and b]
    return max((abs(a - b) / b for a, b in pairs), default=0.0)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _lengths(voxel: Lengths | None) -> str:
    return "nothing" if voxel is None else f"{' x '.join(f'{v:g}' for v in voxel)} nm"
