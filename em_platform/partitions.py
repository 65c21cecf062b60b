"""By what the assets are divided."""

import dagster as dg

from em_platform.ingest.sources import SOURCES

montages = dg.DynamicPartitionsDefinition(name="montages")
"""One partition a montage; the key is its acquisition id."""

lenses = dg.DynamicPartitionsDefinition(name="lenses")
"""One partition a microscope and magnification; see `lens_key`."""

_NAMES = {
    "ebi": "ebi_entries",
    "epfl": "epfl_files",
    "flyem": "flyem_crops",
    "idr": "idr_images",
    "openorganelle": "openorganelle_arrays",
}

items = {
    source: dg.DynamicPartitionsDefinition(name=_NAMES.get(source, f"{source}_items"))
    for source in SOURCES
}
"""Public source -> one partition an item; the key is the item's own."""


def lens_key(microscope: str, magnification: int) -> str:
    """The partition of the lens of `microscope` at `magnification`."""
    return f"{microscope}_{magnification}"


def lens_of_key(key: str) -> tuple[str, int]:
    """The microscope and the magnification that `key` stands for."""
    microscope, _, magnification = key.rpartition("_")
    return microscope, int(magnification)
