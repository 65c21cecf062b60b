"""OME-Zarr images as they are written, exported and shown; read by `formats`.

Names are loaded when they are first used, as those of `formats`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from em_platform.ome_zarr.conversion import convert as convert
    from em_platform.ome_zarr.export_file import export as export
    from em_platform.ome_zarr.http import served as served
    from em_platform.ome_zarr.image_output import forget_unfinished as forget_unfinished
    from em_platform.ome_zarr.layout import mosaic_attributes as mosaic_attributes
    from em_platform.ome_zarr.level_arrays import Run as Run
    from em_platform.ome_zarr.level_arrays import plain_errors as plain_errors
    from em_platform.ome_zarr.pictures import mid_sections as mid_sections
    from em_platform.ome_zarr.pictures import preview as preview
    from em_platform.ome_zarr.pyramid_writer import write_pyramid as write_pyramid
    from em_platform.ome_zarr.volume_writer import write_volume as write_volume

_MODULES = {
    "conversion": "convert",
    "export_file": "export",
    "http": "served",
    "image_output": "forget_unfinished",
    "layout": "mosaic_attributes",
    "level_arrays": "Run plain_errors",
    "pictures": "mid_sections preview",
    "pyramid_writer": "write_pyramid",
    "volume_writer": "write_volume",
}
_MODULE_OF = {name: key for key, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
