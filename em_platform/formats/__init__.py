"""Image files and volumes as they are read: what other rooms may use of them.

Names are loaded when they are first used: Zarr alone takes half a second to import, and
who reads a TIFF needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from em_platform.formats.chunked import chunked_format as chunked_format
    from em_platform.formats.chunked import level_paths as level_paths
    from em_platform.formats.chunked import list_levels as list_levels
    from em_platform.formats.chunked import open_chunked as open_chunked
    from em_platform.formats.chunked.arrays import Crop as Crop
    from em_platform.formats.chunked.count import count_chunks as count_chunks
    from em_platform.formats.chunked.listing import folders as folders
    from em_platform.formats.chunked.store import ChunkStore as ChunkStore
    from em_platform.formats.chunked.store import chunk_store as chunk_store
    from em_platform.formats.header_values import check_image as check_image
    from em_platform.formats.header_values import nm_of as nm_of
    from em_platform.formats.header_values import read_to_limit as read_to_limit
    from em_platform.formats.header_values import unzip_to_limit as unzip_to_limit
    from em_platform.formats.http_body import pieces_of as pieces_of
    from em_platform.formats.image import SUFFIXES as SUFFIXES
    from em_platform.formats.image import ImageHeader as ImageHeader
    from em_platform.formats.image import encode_tiff as encode_tiff
    from em_platform.formats.image import read_header as read_header
    from em_platform.formats.image import read_image as read_image
    from em_platform.formats.image import tiff_parts as tiff_parts
    from em_platform.formats.image import write_tiff as write_tiff
    from em_platform.formats.mdoc import MdocMontage as MdocMontage
    from em_platform.formats.mdoc import MdocPiece as MdocPiece
    from em_platform.formats.mdoc import MdocTiltImage as MdocTiltImage
    from em_platform.formats.mdoc import MdocTilts as MdocTilts
    from em_platform.formats.mdoc import read_mdoc_montage as read_mdoc_montage
    from em_platform.formats.mdoc import read_mdoc_tilts as read_mdoc_tilts
    from em_platform.formats.mrc import open_mrc as open_mrc
    from em_platform.formats.ome_zarr import Described as Described
    from em_platform.formats.ome_zarr import describe as describe
    from em_platform.formats.ome_zarr import level_count as level_count
    from em_platform.formats.ome_zarr import open_level as open_level
    from em_platform.formats.ome_zarr import read_pixels as read_pixels
    from em_platform.formats.ome_zarr import review_at as review_at
    from em_platform.formats.open import described as described
    from em_platform.formats.open import extent_nm as extent_nm
    from em_platform.formats.open import inspect as inspect
    from em_platform.formats.open import left_out as left_out
    from em_platform.formats.open import open_stack as open_stack
    from em_platform.formats.open import open_volume as open_volume
    from em_platform.formats.raster import jpeg_size as jpeg_size
    from em_platform.formats.remote import careful_session as careful_session
    from em_platform.formats.source import is_folder as is_folder
    from em_platform.formats.source import join_uri as join_uri
    from em_platform.formats.source import list_folder as list_folder
    from em_platform.formats.source import local_path as local_path
    from em_platform.formats.source import open_source as open_source
    from em_platform.formats.source import read_text as read_text
    from em_platform.formats.tables import TableFile as TableFile
    from em_platform.formats.tables import inspect_tables as inspect_tables
    from em_platform.formats.tables import is_table_file as is_table_file
    from em_platform.formats.volume import Region as Region
    from em_platform.formats.volume import Volume as Volume
    from em_platform.formats.volume import bounds_of as bounds_of
    from em_platform.formats.volume import shape_of as shape_of

_MODULES = {
    "chunked.count": "count_chunks",
    "chunked.listing": "folders",
    "chunked": "chunked_format level_paths list_levels open_chunked",
    "chunked.store": "ChunkStore chunk_store",
    "chunked.arrays": "Crop",
    "header_values": "check_image nm_of read_to_limit unzip_to_limit",
    "http_body": "pieces_of",
    "image": "SUFFIXES ImageHeader encode_tiff read_header read_image tiff_parts "
    "write_tiff",
    "mdoc": "MdocMontage MdocPiece MdocTiltImage MdocTilts "
    "read_mdoc_montage read_mdoc_tilts",
    "mrc": "open_mrc",
    "ome_zarr": "Described describe level_count open_level read_pixels review_at",
    "open": "described extent_nm inspect left_out open_stack open_volume",
    "raster": "jpeg_size",
    "remote": "careful_session",
    "source": "is_folder join_uri list_folder local_path open_source read_text",
    "tables": "TableFile inspect_tables is_table_file",
    "volume": "Region Volume bounds_of shape_of",
}
_MODULE_OF = {name: key for key, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
