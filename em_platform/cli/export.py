"""`em-platform export`: an OME-Zarr mosaic or volume as TIFF or PNG."""

from pathlib import Path

import click


@click.command()
@click.argument("image", metavar="IMAGE.ZARR")
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--level", type=click.IntRange(min=0), default=0, help="0 is the full resolution"
)
@click.option(
    "--overwrite", is_flag=True, help="also replace another file of em-platform's"
)
def command(image: str, target: Path, level: int, overwrite: bool) -> None:
    """Write a mosaic or volume as an OME-TIFF with its pixel size, or as a PNG.

    FILE ends in .tif, .tiff or .png. A TIFF is written tile by tile, as BigTIFF where
    it is larger than 4 GB; Fiji opens it.
    """
    from em_platform.ome_zarr import export

    shape = export(image, target, level=level, overwrite=overwrite)
    click.echo(f"{target}: {' x '.join(map(str, shape))} pixels of level {level}")
