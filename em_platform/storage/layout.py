"""Where each thing lies under the storage root; the only place that builds paths."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fsspec.implementations.local import LocalFileSystem

# What fsspec takes: keys, endpoint, region; each file system has options of its own.
StorageOptions = Mapping[str, Any]

# Folder of all that aloha has taken, one folder an acquisition.
UPLOADS = "aloha"
# Folder of all catalog records, one folder a source.
RECORDS = "records"
# Folder of what is made from all records: catalog, reports.
CATALOG = "catalog"


def montage_folder(acquisition_id: str) -> str:
    """All that is made of one montage but its record."""
    return f"montages/{acquisition_id}"


def montage(acquisition_id: str) -> str:
    """The montage as it was imaged: tiles, nominal places, failures."""
    return f"{montage_folder(acquisition_id)}/montage.json"


def montage_truth(acquisition_id: str) -> str:
    """Where its tiles truly lay; there only where a simulation imaged them."""
    return f"{montage_folder(acquisition_id)}/truth.json"


def tile_folder(acquisition_id: str) -> str:
    """Folder of the processed 8-bit tiles."""
    return f"{montage_folder(acquisition_id)}/tiles"


def tile(acquisition_id: str, tile_id: str) -> str:
    """One processed 8-bit tile; any tile id becomes a safe and unique name."""
    return f"{tile_folder(acquisition_id)}/{quote(tile_id, safe='')}.tiff"


def recipe(acquisition_id: str) -> str:
    """How the frames became the tiles; beside it the planes of its flat field."""
    return f"{montage_folder(acquisition_id)}/tiles.recipe.json"


def tiles(acquisition_id: str) -> str:
    """The montage whose tiles point at the processed images."""
    return f"{montage_folder(acquisition_id)}/tiles.json"


def tile_statistics(acquisition_id: str) -> str:
    """What the pixels of each tile say."""
    return f"{montage_folder(acquisition_id)}/tile_statistics.json"


def tile_matches(acquisition_id: str) -> str:
    """The measured shift of each pair of neighbours."""
    return f"{montage_folder(acquisition_id)}/tile_matches.json"


def lens_in_use(acquisition_id: str) -> str:
    """The lens model with which this montage was matched, or null."""
    return f"{montage_folder(acquisition_id)}/lens.json"


def montage_fit(acquisition_id: str) -> str:
    """One place for every tile."""
    return f"{montage_folder(acquisition_id)}/montage_fit.json"


def mosaic(acquisition_id: str) -> str:
    """The stitched image, OME-Zarr."""
    return f"{montage_folder(acquisition_id)}/mosaic.zarr"


def mosaic_preview(acquisition_id: str) -> str:
    """The stitched image, small."""
    return f"{montage_folder(acquisition_id)}/preview.jpg"


def focus_map(acquisition_id: str) -> str:
    """The grid of tiles, coloured by their focus."""
    return f"{montage_folder(acquisition_id)}/focus.png"


def residual_plot(acquisition_id: str) -> str:
    """How far the match at each seam is from the fit."""
    return f"{montage_folder(acquisition_id)}/residuals.png"


def dataset_record(acquisition_id: str) -> str:
    """The catalog record of one montage."""
    return record("acquisition", acquisition_id)


def item_folder(source: str, key: str) -> str:
    """All that is known of an item of a public source."""
    return f"ingest/{source}/{key}"


def ingested(source: str, key: str, name: str) -> str:
    """One of what is known of an item of a public source: entry, raw, volume."""
    return f"{item_folder(source, key)}/{name}.json"


def preview(source: str, key: str) -> str:
    """The middle sections of an item of a public source, one picture."""
    return f"{item_folder(source, key)}/preview.png"


def volume(source: str, key: str) -> str:
    """The image of an item of a public source, OME-Zarr."""
    return f"volumes/{source}/{key}.zarr"


def record(source: str, key: str) -> str:
    """The catalog record of any dataset."""
    return f"{RECORDS}/{source}/{key}.json"


def simulation_folder(stack: str) -> str:
    """All that the store has of a simulated tilt series but its volume and record."""
    return f"simulations/{stack}"


def simulated(stack: str, name: str) -> str:
    """One of what is known of a simulated tilt series: plan, sample, pictures."""
    return f"{simulation_folder(stack)}/{name}"


def lens(microscope: str, magnification: int) -> str:
    """The lens model of one microscope at one magnification."""
    return f"lenses/{microscope}/{magnification}.json"


def uploaded_acquisition(acquisition_id: str) -> str:
    """Folder of the frames that aloha has taken."""
    return f"{UPLOADS}/{acquisition_id}"


def uploaded_tile(acquisition_id: str, tile_id: str) -> str:
    """One frame as it was imaged, OME-Zarr with a pyramid."""
    folder = uploaded_acquisition(acquisition_id)
    return f"{folder}/{quote(tile_id, safe='')}.zarr"


def upload(acquisition_id: str) -> str:
    """What aloha knows of an acquisition; there once all its frames are verified."""
    return f"{uploaded_acquisition(acquisition_id)}/upload.json"


def local_path(url: str) -> Path | None:
    """The path that a URL names on this machine's disk, else None."""
    if "://" not in url:
        return Path(url).absolute()
    if url.startswith(("file://", "local://")):
        return Path(LocalFileSystem._strip_protocol(url))  # noqa: SLF001
    return None


def errors_of(root: str) -> tuple[type[Exception], ...]:
    """What a store of this URL raises when it does not take or give the bytes."""
    if not root.startswith("s3://"):
        return (OSError,)
    # s3fs makes OSErrors of S3's answers; botocore's own errors pass.
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    return OSError, BotoCoreError
