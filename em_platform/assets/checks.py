"""The rules that guard each asset, and their outcomes as Dagster shows them.

They are `check_specs` of their assets: a check with a function of its own would not
know its partition (Dagster 1.13). Each spec has the partitions of its asset: without
them Dagster keeps one status a check, and a good montage hides the bad one before it.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

from em_platform.acquisition.qc.report import report_checks
from em_platform.assets.metadata import Metadata, table
from em_platform.config import Settings
from em_platform.ingest.checks import CHECKS
from em_platform.model import Check, Montage, Severity
from em_platform.partitions import items

RULES = {
    "tiles": {
        "montage_is_complete": "Every expected tile is present and not blank.",
    },
    "tile_statistics": {
        "tiles_are_in_focus": "Every tile is as sharp as the limit asks.",
        "tiles_have_contrast": "Every tile has contrast: it shows specimen.",
        "tiles_are_not_saturated": "Few pixels of a tile are at the end of the scale.",
    },
    "lens_correction": {
        "lens_fits_well": "The field explains the matches as em_stitch asks.",
    },
    "tile_matches": {
        "edges_are_matched": "Every pair of neighbours was matched, by enough points.",
    },
    "montage_fit": {
        "montage_has_no_gaps": "No tile is missing amid its neighbours.",
        "seams_are_closed": "No two neighbours disagree by more than the limit.",
        "tiles_are_connected": "All tiles are connected by matches.",
        "montage_is_undistorted": "No tile had to be scaled to fit.",
    },
    "mosaic": {
        "mosaic_is_valid": "Every level can be opened and has the expected size.",
    },
    "uploaded_tiles": {
        "all_tiles_are_uploaded": "Every announced tile was taken by aloha.",
        "uploaded_tiles_are_whole": "Each has its size; frames that are still on the "
        "disk have the checksum that was sent.",
    },
    "metadata_catalog": {
        "no_duplicates": "No two datasets have the same voxels, file or name.",
        "catalog_is_complete": "Every dataset is complete: none failed, waits or needs "
        "review.",
    },
    "validation_report": {
        "records_are_valid": "Every record keeps the schema and all rules.",
    },
}
"""Asset -> check -> what it states."""
_ASSET_OF = {check: asset for asset, rules in RULES.items() for check in rules}

INGEST_RULES = {
    "entry": (),
    "raw": ("files_are_whole", "no_chunks_are_missing"),
    "volume": ("shape_is_expected", "voxel_size_is_expected", "volume_is_not_blank"),
    "record": ("record_is_valid", "dataset_is_new"),
}
"""Asset of a public source -> its checks; what they state: `ingest.checks.CHECKS`."""


def check_specs(
    asset: str, partitions_def: dg.PartitionsDefinition | None = None
) -> list[dg.AssetCheckSpec]:
    """The checks of one asset, each with a status for each of its partitions."""
    return _specs(asset, RULES[asset], partitions_def)


def ingest_check_specs(source: str, name: str) -> list[dg.AssetCheckSpec]:
    """The checks of one asset of a public source."""
    texts = {check: CHECKS[check] for check in INGEST_RULES[name]}
    return _specs([source, name], texts, items[source])


def spoken_results(
    checks: Sequence[Check], *, montage: Montage, settings: Settings
) -> list[dg.AssetCheckResult]:
    """Outcomes of `RULES`; the scope hears of a fresh montage that failed."""
    report_checks(settings, montage.acquisition_id, montage.ended_at, checks)
    return [_result(check, dg.AssetKey(_ASSET_OF[check.name])) for check in checks]


def check_results(
    checks: Iterable[Check], asset: str | Sequence[str]
) -> list[dg.AssetCheckResult]:
    """Outcomes with the sentence, the value and its limit."""
    return [_result(check, dg.AssetKey(asset)) for check in checks]


def _specs(
    asset: str | Sequence[str],
    texts: Mapping[str, str],
    partitions_def: dg.PartitionsDefinition | None,
) -> list[dg.AssetCheckSpec]:
    with warnings.catch_warnings():
        # Partitions of checks are a preview in Dagster 1.13; the version is pinned, and
        # tests/orchestration/test_verdicts.py notices when they no longer work.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                name, asset=asset, description=text, partitions_def=partitions_def
            )
            for name, text in texts.items()
        ]


def _result(check: Check, asset: dg.AssetKey) -> dg.AssetCheckResult:
    error = check.severity is Severity.ERROR
    metadata: Metadata = {}
    if check.value is not None:
        metadata["value"] = check.value
    if check.limit is not None:
        metadata["limit"] = check.limit
    if check.items:
        metadata["items"] = table(("item",), [(item,) for item in check.items])
    return dg.AssetCheckResult(
        passed=check.passed,
        asset_key=asset,
        check_name=check.name,
        severity=dg.AssetCheckSeverity.ERROR if error else dg.AssetCheckSeverity.WARN,
        description=check.sentence,
        metadata=metadata,
    )
