"""Which code made an asset: a version that changes with its kernels, and only then."""

import ast
import hashlib
from pathlib import Path

import em_platform

_PACKAGE = Path(em_platform.__file__).parent
# Asset -> the modules whose code decides its pixels and numbers.
_IMAGING, _STITCHING = "em_platform.imaging", "em_platform.stitching"
KERNELS = {
    "tiles": (
        "em_platform.acquisition.processing",
        f"{_IMAGING}.tile",
        f"{_IMAGING}.correct",
        f"{_IMAGING}.contrast",
        f"{_STITCHING}.flat_field",
        f"{_STITCHING}.recipe",
    ),
    "tile_statistics": (f"{_IMAGING}.tile", f"{_IMAGING}.focus"),
    "tile_matches": (f"{_STITCHING}.match", f"{_IMAGING}.register"),
    "montage_fit": (f"{_STITCHING}.solve", f"{_STITCHING}.system"),
    "mosaic": (
        f"{_STITCHING}.render",
        f"{_STITCHING}.blend",
        f"{_IMAGING}.interpolate",
        f"{_IMAGING}.resample",
    ),
    "lens_correction": (f"{_STITCHING}.lens", f"{_IMAGING}.lens"),
    "dataset_record": ("em_platform.catalog.records",),
}


def code_version(asset: str) -> str:
    """Of the kernels of an asset, 12 digits; comments and layout do not count.

    Dagster shows an asset as out of date where it was made by another version.
    """
    digest = hashlib.sha256()
    for module in KERNELS[asset]:
        path = _PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
        digest.update(code_of(path.read_text("utf-8")).encode())
    return digest.hexdigest()[:12]


def code_of(source: str) -> str:
    """A module's code without its comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return ast.dump(tree)
