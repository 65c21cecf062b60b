"""Image files and volumes: what other rooms may use of them.

Names are loaded when they are first used: Zarr alone takes half a second to import, and
who reads a TIFF needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from em_platform.formats.chunked.count import ChunkCount, count_chunks
    from em_platform.formats.chunked.listing import folders
    from em_platform.formats.chunked.open import (
        chunked_format,
        level_paths,
        list_levels,
        open_chunked,
    )
    from em_platform.formats.chunked.store import ChunkStore, chunk_store
    from em_platform.formats.chunked.volume import Crop
    from em_platform.formats.conversion import convert, export, mid_sections
    from em_platform.formats.header_values import (
        check_image,
        nm_of,
        read_to_limit,
        unzip_to_limit,
    )
    from em_platform.formats.http import served
    from em_platform.formats.image import (
        SUFFIXES,
        ImageHeader,
        encode_tiff,
        read_header,
        read_image,
        write_tiff,
    )
    from em_platform.formats.image_output import forget_unfinished
    from em_platform.formats.level_arrays import Run, plain_errors
    from em_platform.formats.mdoc import (
        MdocMontage,
        MdocPiece,
        MdocTiltImage,
        MdocTilts,
        read_mdoc_montage,
        read_mdoc_tilts,
    )
    from em_platform.formats.mrc import open_mrc
    from em_platform.formats.ome_layout import mosaic_attributes
    from em_platform.formats.ome_zarr import (
        Described,
        describe,
        level_count,
        open_level,
        preview,
        review_at,
        write_pyramid,
    )
    from em_platform.formats.open import (
        described,
        extent_nm,
        inspect,
        open_stack,
        open_volume,
    )
    from em_platform.formats.raster import jpeg_size
    from em_platform.formats.remote import CarefulSession
    from em_platform.formats.source import (
        is_folder,
        join_uri,
        list_folder,
        local_path,
        open_source,
        read_text,
    )
    from em_platform.formats.volume import Region, Volume, bounds_of, shape_of
    from em_platform.formats.volume_writer import write_volume

_MODULES = {
    "chunked.count": "ChunkCount count_chunks",
    "chunked.listing": "folders",
    "chunked.open": "chunked_format level_paths list_levels open_chunked",
    "chunked.store": "ChunkStore chunk_store",
    "chunked.volume": "Crop",
    "conversion": "convert export mid_sections",
    "header_values": "check_image nm_of read_to_limit unzip_to_limit",
    "http": "served",
    "image": "SUFFIXES ImageHeader encode_tiff read_header read_image write_tiff",
    "image_output": "forget_unfinished",
    "level_arrays": "Run plain_errors",
    "mdoc": (
        "MdocMontage MdocPiece MdocTiltImage MdocTilts read_mdoc_montage "
        "read_mdoc_tilts"
    ),
    "mrc": "open_mrc",
    "ome_layout": "mosaic_attributes",
    "ome_zarr": "Described describe level_count open_level preview review_at "
    "write_pyramid",
    "open": "described extent_nm inspect open_stack open_volume",
    "raster": "jpeg_size",
    "remote": "CarefulSession",
    "source": "is_folder join_uri list_folder local_path open_source read_text",
    "volume": "Region Volume bounds_of shape_of",
    "volume_writer": "write_volume",
}
_MODULE_OF = {name: key for key, names in _MODULES.items() for name in names.split()}

__all__ = [
    "SUFFIXES",
    "CarefulSession",
    "ChunkCount",
    "ChunkStore",
    "Crop",
    "Described",
    "ImageHeader",
    "MdocMontage",
    "MdocPiece",
    "MdocTiltImage",
    "MdocTilts",
    "Region",
    "Run",
    "Volume",
    "bounds_of",
    "check_image",
    "chunk_store",
    "chunked_format",
    "convert",
    "count_chunks",
    "describe",
    "described",
    "encode_tiff",
    "export",
    "extent_nm",
    "folders",
    "forget_unfinished",
    "inspect",
    "is_folder",
    "join_uri",
    "jpeg_size",
    "level_count",
    "level_paths",
    "list_folder",
    "list_levels",
    "local_path",
    "mid_sections",
    "mosaic_attributes",
    "nm_of",
    "open_chunked",
    "open_level",
    "open_mrc",
    "open_source",
    "open_stack",
    "open_volume",
    "plain_errors",
    "preview",
    "read_header",
    "read_image",
    "read_mdoc_montage",
    "read_mdoc_tilts",
    "read_text",
    "read_to_limit",
    "review_at",
    "served",
    "shape_of",
    "unzip_to_limit",
    "write_pyramid",
    "write_tiff",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
